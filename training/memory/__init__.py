"""What each stage of a run takes of a GPU's memory, estimated from configs alone, and plans that fit."""
