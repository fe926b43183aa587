"""From a data folder and a source to a run folder: fit, evaluate, predict."""
