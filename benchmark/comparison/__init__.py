"""Two runs on the same test images, finding by finding."""
