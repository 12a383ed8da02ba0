"""Proximal policy optimization: several updates by each roll-out, none of which leads far from what was played."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from framework.api import Array, Environment, Model, Task
from framework.errors import ConfigError
from framework_tasks.actor_critic import Judged, Played, Updates, actor_critic


def ppo(
    policy: Model,
    value: Model,
    environment: Environment,
    optimizer: optax.GradientTransformation,
    steps: int = 64,
    epochs: int = 4,
    minibatches: int = 4,
    clip: float = 0.2,
    discount: float = 0.99,
    decay: float = 0.95,
    value_weight: float = 0.5,
    entropy_weight: float = 0.0,
) -> Task:
    """Play a roll-out, and improve policy and value by it in several passes. Schulman et al. 2017, arXiv:1707.06347.

    The gain of an action is its advantage times the ratio of its probability to that when it was played, clipped so
    that a ratio far from 1 gains nothing more. Advantages are normalized over the whole roll-out. A step makes
    `epochs` × `minibatches` updates, all of which a schedule counts.

    Args:
      policy: observations [B, ...] to logits [B, choices], or to means and logarithms of standard deviations
        [B, 2 × actions].
      value: observations [B, ...] to the discounted sum of the rewards to come [B, 1].
      environment: that is played; `data.batch_size` of them side by side.
      optimizer: of both networks.
      steps: of each environment in a roll-out, a multiple of `minibatches`.
      epochs: passes over a roll-out.
      minibatches: parts of it, with an update for each.
      clip: largest distance of the ratio from 1 that still gains.
      discount: of rewards, for each step.
      decay: 1 takes whole returns, 0 one reward and the value after it: variance against bias.
      value_weight: of the squared error of values, beside the gain.
      entropy_weight: of the policy's entropy; above 0 it goes on trying.

    Raises: ConfigError if a number is out of range.
    """
    if isinstance(clip, float) and clip <= 0:
        raise ConfigError(f"clip is {clip}, expected more than 0.")

    def loss(judged: Judged, played: Played) -> tuple[Array, Mapping[str, Array]]:
        ratio = jnp.exp(judged.log_probability - played.log_probability)
        near = jnp.clip(ratio, 1 - clip, 1 + clip)
        gain = jnp.minimum(ratio * played.advantage, near * played.advantage)
        error = (judged.value - played.target) ** 2
        values = -gain + value_weight * error - entropy_weight * judged.entropy
        clipped = jnp.abs(ratio - 1) > clip
        return values, {"value_error": error, "entropy": judged.entropy, "clipped": clipped.astype(jnp.float32)}

    updates = Updates(steps, epochs, minibatches, discount, decay)
    return actor_critic(policy, value, environment, optimizer, loss, updates)
