"""What the data sets of `gta.data.datasets` are read with."""
