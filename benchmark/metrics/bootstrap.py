"""Patient-level bootstrap: pure functions of arrays.

Images of one patient are not independent, so patients are resampled with all of their images, with replacement (the
cluster bootstrap: Field and Welsh 2007, JRSS B 69:369). Everything computed with the same patients and the same seed
uses the same replicates, so that two such results may be subtracted replicate by replicate.
"""

from collections.abc import Iterator, Sequence

import numpy as np

CHUNK = 2_000_000  # images x replicates at a time: at most 60 MB


def encode_patients(patients: Sequence | np.ndarray) -> np.ndarray:
    """Return each image's patient index: int (N,), 0 to P - 1 in the order of the sorted names."""
    return np.unique(np.asarray(patients), return_inverse=True)[1]


def bootstrap_counts(patient_index: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sample patients with replacement and count how often each replicate contains each patient.

    Args:
        patient_index: (N,) each image's patient index, from `encode_patients`.
        resamples: number of replicates, each of P patients.
        seed: seed of the bootstrap. The replicates do not depend on how many are held in memory at a time.

    Yields:
        Counts int32 (P, R) of some replicates; all chunks together have `resamples` columns.
    """
    generator = np.random.default_rng(seed)
    patients = patient_index.max(initial=0) + 1
    step = max(1, CHUNK // max(1, len(patient_index)))
    for first in range(0, resamples, step):
        # One call per replicate: with a single call per chunk, the numbers would depend on CHUNK.
        samples = [generator.integers(0, patients, patients) for _ in range(min(step, resamples - first))]
        yield np.stack([np.bincount(sample, minlength=patients) for sample in samples], axis=1, dtype=np.int32)
