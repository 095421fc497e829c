"""Fine-tuning and distillation: methods, loops, checkpoints and the encodings they train on."""
