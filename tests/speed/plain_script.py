"""A plain PyTorch script, the other side of a comparison: float32, NCHW, every image decoded in every epoch.

It trains the network of `ma` on FOLDER/*.png with the labels in FOLDER/labels.npy, an epoch a line of input.

    python plain_script.py FOLDER BATCH_SIZE
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from chxbench import FINDINGS
from chxbench.methods.ma import MultiAttention


class Radiographs(Dataset):
    """Images as a script makes them, every time: decoded, shrunk, shifted, normalised."""

    def __init__(self, folder):
        self.paths, self.targets = sorted(folder.glob("*.png")), torch.from_numpy(np.load(folder / "labels.npy"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        gray = Image.open(self.paths[row]).convert("L").resize((256, 256), Image.Resampling.BILINEAR)
        top, left = torch.randint(4, 29, (2,)).tolist()
        crop = np.asarray(gray, np.float32)[top : top + 224, left : left + 224] / 255
        mean, std = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
        return torch.from_numpy(((crop - mean) / std).astype(np.float32)), self.targets[row]


def main(folder, batch_size):
    network = MultiAttention().build(FINDINGS, "none").train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    # No workers: on two cores they took more from the training than they gave (0.6 against 0.27 s an image).
    loader = DataLoader(Radiographs(folder), batch_size, shuffle=True)
    for _ in sys.stdin:
        for images, targets in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images).logits, targets)
            loss.backward()
            optimizer.step()
        sys.stdout.write(f"{loss.item()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
