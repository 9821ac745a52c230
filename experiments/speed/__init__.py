"""Step time, run time and memory of unlearning, beside the plain PyG formulation and retraining; see README.md."""
