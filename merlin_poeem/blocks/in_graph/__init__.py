"""The search inside TensorFlow: a layer of stock operations for top-k encoders."""
