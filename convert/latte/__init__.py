"""Published files of Latte and FVDM, and of the autoencoder of Stable Diffusion 1."""
