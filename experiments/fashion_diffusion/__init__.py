"""Fashion-MNIST: a diffusion model forgets one class, then another."""
