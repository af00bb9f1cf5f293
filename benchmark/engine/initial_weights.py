"""Build a method's network with the initial weights that the recipe names, and state what was loaded.

A file is loaded here, for every method alike. Pretrained weights are loaded by the method, and proved to have arrived:
random weights depend on the seed, loaded ones do not.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..method import ContractError, MethodError
from ..recipe import Recipe, refuse_without_effect
from ..utils.errors import first_few
from ..utils.progress import say
from ..utils.text import count
from .blame import blame
from .experiment import Experiment
from .random_state import keep_random_state, seed_random
from .weights import NAMED, copy_weights, read_weights

BATCH_NORM = nn.modules.batchnorm._BatchNorm
MAX_WRAPPERS = 4  # modules around a network in a file: module.model.backbone.conv1.weight has 3
MIN_SHARE = 1 / 3  # of a file's tensors that must fit; the others may be a classifier or a second network


class InitialWeights(NamedTuple):
    """Weights before training.

    Attributes:
        tensors: copy of the network's state_dict.
        source: the full name of pretrained weights ("timm/resnet101.tv_in1k") or the name of a file, joined by commas
            if there are several; None if nothing was loaded.
        not_loaded: names of the parameters that were not loaded.
    """

    tensors: dict[str, Tensor]
    source: str | None
    not_loaded: list[str]


class Fit(NamedTuple):
    """A way to load a file's tensors into a network.

    Attributes:
        wrapper: prefix of the names in the file, "" or ending with a dot.
        module: prefix of the names in the network, "" or ending with a dot.
        names: names in the file, to names in the network, of the tensors with equal names and shapes.
    """

    wrapper: str
    module: str
    names: dict[str, str]


def build_network(experiment: Experiment) -> tuple[nn.Module, InitialWeights]:
    """Build the method's network with its initial weights; random ones are determined by the run's seed.

    Raises:
        MethodError: the method fails to build it, or the weights cannot be loaded or do not arrive.
    """
    weights, seed = experiment.recipe.model.weights, experiment.config.seed
    tensors = None if weights in NAMED else read_weights(Path(weights))
    seed_random(seed)
    network = _build(experiment, weights)
    _check_batch_norm(experiment.recipe, network)
    loaded = _loaded_by_method(experiment, network)
    sources = _sources(network, loaded)
    if tensors is not None:
        loaded |= load_tensors(network, tensors, Path(weights).name, len(experiment.index.findings))
        sources.append(Path(weights).name)
    # Parameters that a network has under two names are listed once.
    not_loaded = [name for name, _ in network.named_parameters() if name not in loaded]
    if sources:
        say(f"loaded {', '.join(sources)}; {count(len(not_loaded), 'tensor')} not loaded: {first_few(not_loaded)}")
    with blame(experiment.method, "have its weights copied"):
        tensors = copy_weights(network)
    return network, InitialWeights(tensors, ", ".join(sources) or None, not_loaded)


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], source: str, num_findings: int) -> set[str]:
    """Load a file's tensors into the part of a network that they fit: all of it, or one of its modules.

    What the file may lack: layers that a method adds inside a pretrained network (attention), parts beside it (a head),
    and a classifier with other classes. What it may contain besides: other parts, which are ignored (a classifier).

    Args:
        network: network to change.
        tensors: the file's tensors by name.
        source: name of the file, for messages.
        num_findings: C, outputs of the network's classifier.

    Returns:
        Names of the loaded tensors in the network.

    Raises:
        MethodError: the tensors fit no part, or several, or not all of them fit, or they are not finite numbers.
    """
    own = network.state_dict(keep_vars=True)
    fit = _best_fit(own, tensors, [name for name, _ in network.named_modules(remove_duplicate=False)], source)
    problems = _problems(fit, own, tensors, num_findings)
    if problems:
        where = f"the network's {fit.module.rstrip('.')}" if fit.module else "the network"
        raise MethodError(
            f"weights {source} do not match {where} ({first_few(problems)}): they belong to a different architecture"
        )
    with torch.no_grad():
        for key, name in fit.names.items():
            _check_values(tensors[key], own[name], f"{key} in weights {source}")
            own[name].copy_(tensors[key])
    same = {id(own[name]) for name in fit.names.values()}
    return {name for name, value in own.items() if id(value) in same}


def _build(experiment: Experiment, weights: str) -> nn.Module:
    """Build the network as the method does, with pretrained weights or with random ones."""
    method, given = experiment.method, weights if weights in NAMED else "none"
    advice = "--set model.weights=none trains from random weights" if given == "imagenet" else ""
    with blame(method, f"build its network with model.weights={given}", advice):
        network = method.build(experiment.index.findings, given)
    if not isinstance(network, nn.Module):
        raise ContractError(f"build must return a torch.nn.Module, not {type(network).__name__}")
    lazy = [name for name, weight in network.named_parameters() if nn.parameter.is_lazy(weight)]
    if lazy:
        raise ContractError(f"parameters have no shape yet ({first_few(lazy)}): run a blank image through lazy modules")
    return network


def _loaded_by_method(experiment: Experiment, network: nn.Module) -> set[str]:
    """Find the parameters that a method loaded, by building its network with a different seed.

    Raises:
        MethodError: ImageNet weights were requested, but all parameters are random.
    """
    weights = experiment.recipe.model.weights
    with keep_random_state(None):
        seed_random(experiment.config.seed ^ 1)
        fixed = _equal(network, _build(experiment, weights))
        sizes = {name: value.numel() for name, value in network.named_parameters()}
        if 2 * sum(sizes[name] for name in fixed) > sum(sizes.values()):
            return fixed
        if weights != "imagenet":
            return set()  # a few fixed parameters (position codes, filters) are a method's initialization
        loaded = fixed - _equal(network, _build(experiment, "none"))
    if not loaded:
        raise MethodError(
            f"method {experiment.method.name} ({experiment.entry.place}) loads no ImageNet weights: its network has "
            "the same random ones as without. Use --set model.weights=none, or load them in build if weights is "
            '"imagenet"'
        )
    return loaded


def _equal(network: nn.Module, other: nn.Module) -> set[str]:
    """Return the names of parameters with equal values in both, except constant ones such as initial biases."""
    values = {name: value.detach() for name, value in other.named_parameters()}
    return {
        name
        for name, value in network.named_parameters()
        if name in values and torch.equal(value, values[name]) and bool((value != value.flatten()[:1]).any())
    }


def _sources(network: nn.Module, loaded: set[str]) -> list[str]:
    """Name the weights that a method loaded: a module's `weights_source`, else timm's name of its weights."""
    sources: dict[str, str] = {}
    for prefix, module in network.named_modules():
        name = getattr(module, "weights_source", None) or _timm_source(getattr(module, "pretrained_cfg", None))
        inside = prefix.startswith(tuple(f"{outer}." for outer in sources if outer)) or "" in sources
        if name and not inside and any(key.startswith(f"{prefix}." if prefix else "") for key in loaded):
            sources[prefix] = str(name)
    unknown = ["weights that the method loads"] if loaded and not sources else []
    return sorted(set(sources.values())) or unknown


def _timm_source(config: object) -> str | None:
    """Return the name that pins a network's weights in timm."""
    if not isinstance(config, Mapping) or not config.get("architecture"):
        return None
    if config.get("tag"):
        return f"timm/{config['architecture']}.{config['tag']}"
    return f"timm/{config.get('hf_hub_id') or config['architecture']}"


def _check_batch_norm(recipe: Recipe, network: nn.Module) -> None:
    """Refuse a setting of BatchNorm for a network without it."""
    if recipe.train.batch_norm != "auto" and not any(isinstance(m, BATCH_NORM) for m in network.modules()):
        refuse_without_effect(recipe, {"train.batch_norm": "the network has no BatchNorm"})


def _best_fit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], modules: Sequence[str], source: str) -> Fit:
    """Find the module of the network that most of the file's tensors fit, the innermost if it is in others.

    Raises:
        MethodError: they fit no module, or different ones equally well, or most tensors fit nowhere.
    """
    fits = [fit for fit in _fits(own, tensors, modules) if fit.names]
    if not fits:
        raise MethodError(
            f"weights {source} fit no part of the network, which has {first_few(list(own), 2)}, while the file has "
            f"{first_few(list(tensors), 2)}: a method must keep a pretrained network as one of its modules, with the "
            "names and shapes of its tensors"
        )
    best = max(fits, key=lambda fit: (len(fit.names), fit.module.count("."), fit.wrapper.count(".")))
    if len(best.names) < MIN_SHARE * len(tensors):
        nowhere = [key for key in tensors if key not in best.names and not _is_counter(key)]
        raise MethodError(
            f"weights {source} do not match the network: {count(len(nowhere), 'tensor')} fit nowhere "
            f"({first_few(nowhere)}): they belong to a different architecture"
        )
    _check_unique(best, fits, own, source)
    return best


def _check_unique(best: Fit, fits: Sequence[Fit], own: Mapping[str, Tensor], source: str) -> None:
    """Raise a MethodError if as many tensors fit a different module, or a different part of the file."""

    def targets(fit: Fit) -> dict[str, int]:  # a module may have several names
        return {key: id(own[name]) for key, name in fit.names.items()}

    different = [fit for fit in fits if len(fit.names) == len(best.names) and targets(fit) != targets(best)]
    if different:
        places = [f"{f.wrapper or 'all'} of the file in {f.module or 'all'} of the network" for f in (best, *different)]
        raise MethodError(
            f"weights {source} fit equally well as {' and as '.join(places[:2])}: save only the tensors to load, with "
            "the network's names"
        )


def _fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], modules: Sequence[str]) -> Iterator[Fit]:
    """Yield each way to replace a prefix of the file's names by the name of a module, with the tensors that fit."""
    under: dict[str, list[str]] = {"": list(tensors)}
    for key in tensors:
        parts = key.split(".")[:-1]
        for depth in range(1, min(len(parts), MAX_WRAPPERS) + 1):
            under.setdefault(".".join(parts[:depth]) + ".", []).append(key)
    for wrapper, keys in under.items():
        for module in (f"{name}." if name else "" for name in modules):
            names = ((key, module + key[len(wrapper) :]) for key in keys)
            yield Fit(
                wrapper,
                module,
                {key: name for key, name in names if name in own and own[name].shape == tensors[key].shape},
            )


def _problems(fit: Fit, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], num_findings: int) -> list[str]:
    """List what differs between the file and the module that it fits, beyond what a file may lack or have besides."""
    inside = {name.removeprefix(fit.module): value for name, value in own.items() if name.startswith(fit.module)}
    given = {key.removeprefix(fit.wrapper): value for key, value in tensors.items() if key.startswith(fit.wrapper)}
    problems = []
    for name, value in inside.items():
        if name not in given and not _is_counter(name) and not _is_added(name, given, at_top=not fit.module):
            problems.append(f"{name} is missing")
        elif (
            name in given and given[name].shape != value.shape and not _is_classifier(value, given[name], num_findings)
        ):
            problems.append(f"{name} has the shape {[*given[name].shape]}, not {[*value.shape]}")
    parts = {name.split(".")[0] for name in inside}
    left_over = [name for name in given if name not in inside and name.split(".")[0] in parts and not _is_counter(name)]
    return problems + [f"{name} is not in the network" for name in left_over]


def _is_added(name: str, given: Mapping[str, Tensor], at_top: bool) -> bool:
    """Return whether a tensor belongs to a module that the file lacks because the method adds it.

    Numbered modules are not added: a network with more of them is deeper.
    """
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        prefix = ".".join(parts[:depth]) + "."
        if not any(key.startswith(prefix) for key in given):
            return at_top if depth == 1 else not any(letter.isdigit() for letter in parts[depth - 1])
    return False


def _is_classifier(own: Tensor, given: Tensor, num_findings: int) -> bool:
    """Return whether both are a classifier's weights or biases, and differ in the number of classes only."""
    return own.ndim > 0 and own.shape[0] == num_findings and own.shape[1:] == given.shape[1:]


def _check_values(given: Tensor, own: Tensor, what: str) -> None:
    """Raise a MethodError for numbers that a network in float32 cannot start from."""
    if own.is_floating_point() and not given.is_floating_point():
        raise MethodError(f"{what} is of {given.dtype}, not of floating point numbers: convert it to float32")
    if not bool(given.isfinite().all()):
        raise MethodError(f"{what} has values that are not finite: save the weights before training diverged")


def _is_counter(name: str) -> bool:
    """Return whether this is BatchNorm's count of batches, which older files lack and nothing here uses."""
    return name.endswith("num_batches_tracked")
