"""Training: what the harness adds to the bare step, and what a plain script would have taken."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from chxbench import FINDINGS
from chxbench.benchmark.batches import Batch
from chxbench.benchmark.device import Device
from chxbench.benchmark.environment import cores
from chxbench.benchmark.pixels import prepare
from chxbench.benchmark.plan import make_method
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.step import learn, make_learner
from chxbench.benchmark.train import Material, train_epoch
from chxbench.datasets.phantom import Phantom
from chxbench.methods.ma import MultiAttention


def make_material(dataset, settings, cache, recipe="quick"):
    """A training of `ma` on a small set of drawn radiographs: its material, its learner, rows to train on."""
    recipe = load_recipe(recipe, {"model.weights": "none", **settings})
    method = make_method(MultiAttention, recipe, {})
    index = dataset.index(None)
    pixels = prepare(dataset, index, recipe.pixels.size, cache).pixels
    device = Device("auto")
    learner = make_learner(device, method.build(FINDINGS, "none"), recipe, 1000)
    rows = np.arange(len(index.images))
    return Material(device, method, recipe, 0, pixels, index.targets(), rows), learner, rows


def test_an_epoch_against_its_bare_steps(versus, tmp_path):
    dataset = Phantom(images=256, size=72)
    material, learner, rows = make_material(dataset, {"train.epochs": 100}, tmp_path)
    size, side = material.recipe.train.batch_size, material.recipe.pixels.crop
    gray = torch.randint(256, (size, side, side), dtype=torch.uint8)
    resident = Batch(gray.to(material.device.torch_device), torch.from_numpy(material.targets[:size]), slice(0, size))

    def epoch():
        return train_epoch(material, learner, (0, 0), rows, "training")

    def bare():
        learner.train()
        losses = [learn(material.device, material.method, learner, resident) for _ in range(len(rows) // size)]
        return float(sum(losses)) / len(losses)

    learner.train()
    learn(material.device, material.method, learner, resident)
    ours, theirs = versus(
        "training end to end, 64x64 crops", "the same steps on one batch in memory", epoch, bare, 0.97, rounds=9
    )
    assert np.isfinite([ours, theirs]).all()


class Script(Dataset):
    """What a plain script does with an image, every time: decode, shrink, shift, normalise."""

    def __init__(self, paths, targets):
        self.paths, self.targets = paths, targets

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        gray = Image.open(self.paths[row]).convert("L").resize((256, 256), Image.Resampling.BILINEAR)
        top, left = torch.randint(4, 29, (2,)).tolist()
        crop = np.asarray(gray, np.float32)[top : top + 224, left : left + 224] / 255
        mean, std = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
        return torch.from_numpy(((crop - mean) / std).astype(np.float32)), self.targets[row]


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares what a CPU does")
def test_training_against_a_plain_script(versus, tmp_path):
    images, size = 60, 20
    dataset = Phantom(images=images, size=1024)
    settings = {"train.batch_size": size, "train.epochs": 100, "train.drop_after": []}
    material, learner, rows = make_material(dataset, settings, tmp_path, "paper")
    paths = [tmp_path / name for name in dataset.index(None).images["image_id"]]
    for path in paths:
        Image.fromarray(dataset.read(path.name, None)).save(path)
    network = material.method.build(FINDINGS, "none").train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    loader = DataLoader(Script(paths, torch.from_numpy(material.targets)), size, shuffle=True, num_workers=cores())

    def script():
        for crops, targets in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(crops).logits, targets)
            loss.backward()
            optimizer.step()
        return loss.item()

    def epoch():
        return train_epoch(material, learner, (0, 0), rows, "training")

    epoch()
    ours, theirs = versus(
        f"training ma in {material.device.precision}, 224x224 crops",
        "a plain script: float32, NCHW, decoding each epoch",
        epoch,
        script,
        2.5,
    )
    assert np.isfinite([ours, theirs]).all()
