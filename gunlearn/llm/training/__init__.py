"""A transformers Trainer for objectives."""
