"""Drawing images: from noise, from pictures, and by control images."""
