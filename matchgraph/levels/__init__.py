"""What takes more than one level: models for images, candidates for prompts, teachers for images."""
