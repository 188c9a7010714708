"""What training leaves: parameters, a quantization, and how it codes and decodes vectors."""
