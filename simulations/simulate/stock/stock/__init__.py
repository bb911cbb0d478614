"""LoRA fine-tuning with Flower's FedAvg, as a user of FlowerTune's template would write it. Nothing of plait."""
