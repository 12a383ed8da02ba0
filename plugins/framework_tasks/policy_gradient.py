"""Policy gradient with a baseline: one update by each roll-out."""

from __future__ import annotations

from collections.abc import Mapping

import optax

from framework.api import Array, Environment, Model, Task
from framework_tasks.actor_critic import Judged, Played, Updates, actor_critic


def policy_gradient(
    policy: Model,
    value: Model,
    environment: Environment,
    optimizer: optax.GradientTransformation,
    steps: int = 32,
    discount: float = 0.99,
    decay: float = 1.0,
    value_weight: float = 0.5,
    entropy_weight: float = 0.0,
) -> Task:
    """Play a roll-out, and make actions that did better than expected more probable.

    REINFORCE with a learnt baseline, Williams 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning". Returns end at the end of the roll-out with the value of what comes after, as in the
    advantage actor-critic of Mnih et al. 2016, arXiv:1602.01783. Advantages are normalized over the whole roll-out.

    Args:
      policy: observations [B, ...] to logits [B, choices], or to means and logarithms of standard deviations
        [B, 2 × actions].
      value: observations [B, ...] to the discounted sum of the rewards to come [B, 1]: the baseline.
      environment: that is played; `data.batch_size` of them side by side.
      optimizer: of both networks.
      steps: of each environment in a roll-out.
      discount: of rewards, for each step.
      decay: 1 takes whole returns, 0 one reward and the value after it: variance against bias.
      value_weight: of the squared error of values, beside the gain.
      entropy_weight: of the policy's entropy; above 0 it goes on trying.

    Raises: ConfigError if a number is out of range.
    """

    def loss(judged: Judged, played: Played) -> tuple[Array, Mapping[str, Array]]:
        gain = judged.log_probability * played.advantage
        error = (judged.value - played.target) ** 2
        values = -gain + value_weight * error - entropy_weight * judged.entropy
        return values, {"value_error": error, "entropy": judged.entropy}

    updates = Updates(steps, epochs=1, minibatches=1, discount=discount, decay=decay)
    return actor_critic(policy, value, environment, optimizer, loss, updates)
