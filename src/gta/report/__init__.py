"""Reports: one self-contained HTML file, made from files on disk only."""
