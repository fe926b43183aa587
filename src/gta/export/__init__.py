"""What a run trained, in the forms that others run: ONNX, TorchScript, and the folders of transformers and timm."""
