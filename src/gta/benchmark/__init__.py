"""`gta bench`: what guidance costs on this machine."""
