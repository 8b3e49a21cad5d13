"""The roles of images: by the words of the data, by a split made here, by groups; and the seal of the test images."""
