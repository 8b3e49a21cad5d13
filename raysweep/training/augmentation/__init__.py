"""Augmentation of whole batches: turned, cropped, recoloured, erased and mixed images. Nothing here draws: that is raysweep.data.augment_draws."""
