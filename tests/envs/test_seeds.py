import numpy as np
import pytest

from palaestra.envs.core import episode_seed, episode_seeds


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 + 5, 2**100 + 3, 2**130])
def test_seeds_at_once_are_numpys_own(seed: int) -> None:
    indices = np.r_[np.arange(50), [2**31, 2**32 - 1]]
    one_by_one = [episode_seed(seed, int(index)) for index in indices]
    assert episode_seeds(seed, indices).tolist() == one_by_one
    assert len(set(one_by_one)) == len(one_by_one)


def test_seeds_out_of_range_are_refused() -> None:
    for seed, indices in ((-1, [0]), (0, [2**32]), (0, [-1])):
        with pytest.raises(ValueError, match=r"indices in \[0, 2³²\)"):
            episode_seeds(seed, np.array(indices))
    assert episode_seeds(0, np.array([], np.int64)).shape == (0,)
