"""DP2Unlearning: private base models."""
