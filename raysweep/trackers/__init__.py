"""Mirror experiments into TensorBoard, MLflow, Weights & Biases and trackio."""
