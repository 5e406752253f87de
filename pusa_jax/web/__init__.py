"""A page in the browser: noise per latent frame drawn by hand, jobs queued and watched."""
