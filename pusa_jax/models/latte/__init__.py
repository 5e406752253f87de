"""FVDM on Latte: the factorised video transformer, its image autoencoder and their record."""
