"""Reading a ViT while it runs, its attention left fused; knows torch and nothing else."""
