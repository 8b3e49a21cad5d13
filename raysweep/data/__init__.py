"""Images: reading them from any kind of source, caching them decoded, sampling and augmenting them."""
