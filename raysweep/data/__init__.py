"""Images: where they come from, the cache they are decoded into once, the order they are shown in, augmentation."""
