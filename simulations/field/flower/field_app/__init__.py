"""LoRA adapters averaged by Flower as FlowerTune has it, on given sequences."""
