"""The four planning domains of AgentBoard in words: what holds, what can be done, and the rules.

The conditions that can be goals are worded as in AgentBoard's labels ("ball1 is at roomb"). An action names only what
the situation leaves open: which hand pours is known from what holds the shot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOOK = "look around"
LOOK_RULE = f"An action tells what came to hold by it; '{LOOK}' tells all that holds."


@dataclass(frozen=True, slots=True)
class DomainWords:
    """A domain's predicates and actions as format strings over their arguments, in the order of the domain file.

    A predicate that is left out is never told: types, and what the rest implies.
    """

    rules: tuple[str, ...]
    facts: Mapping[str, str]
    actions: Mapping[str, str]


GRIPPER = DomainWords(
    rules=(
        "You are a robot with grippers that hold one ball each, and carry balls between rooms.",
        "'move to roomb' takes you to another room.",
        "'pick up ball1 with left' takes a ball in your room into a gripper that is free.",
        "'put down ball1' leaves a ball that you carry in the room where you are.",
        LOOK_RULE,
    ),
    facts={
        "at-robby": "You are at {0}.",
        "at": "{0} is at {1}.",
        "free": "Gripper {0} is free.",
        "carry": "You carry {0} with gripper {1}.",
    },
    actions={
        "move": "move to {1}",
        "pick": "pick up {0} with {2}",
        "drop": "put down {0}",
    },
)

BLOCKWORLD = DomainWords(
    rules=(
        "You are an arm over a table with blocks, and hold one block at a time.",
        "A block is clear when nothing is on it and you do not hold it; only clear blocks can be taken.",
        "'pick up b1' takes a clear block from the table, and 'put down b1' puts the block you hold on the table.",
        "'unstack b1 from b2' takes a clear block from another one.",
        "'stack b1 on b2' puts the block you hold on a clear one.",
        LOOK_RULE,
    ),
    facts={
        "on": "{0} is on {1}.",
        "on-table": "{0} is on the table.",
        "clear": "{0} is clear.",
        "arm-empty": "Your arm is empty.",
        "holding": "You hold {0}.",
    },
    actions={
        "pickup": "pick up {0}",
        "putdown": "put down {0}",
        "stack": "stack {0} on {1}",
        "unstack": "unstack {0} from {1}",
    },
)

BARMAN = DomainWords(
    rules=(
        "You are a barman with two hands, who fills shots with ingredients and mixes cocktails of two in a shaker.",
        "'grasp shot1 with left' takes a shot or shaker from the table; 'put down shot1' puts it back there.",
        "To fill, clean or shake something you hold it in one hand while the other one is empty.",
        "'fill shot1 with ingredient1' needs an empty, clean shot; 'refill' an empty one used for that ingredient.",
        "'empty shot1' throws its content away; 'clean shot1' cleans an empty shot that was used.",
        "'pour shot1 into shaker1' needs an empty, clean shaker for the first ingredient of a cocktail.",
        "'shake cocktail1 in shaker1' mixes the cocktail when the shaker contains both of its ingredients.",
        "'pour shaker1 into shot1' pours a shaken cocktail into an empty, clean shot.",
        "'empty shaker1' throws a shaken cocktail away; 'clean shaker1' cleans an empty shaker.",
        LOOK_RULE,
    ),
    facts={
        "ontable": "{0} is on the table.",
        "holding": "Hand {0} holds {1}.",
        "handempty": "Hand {0} is empty.",
        "empty": "{0} is empty.",
        "contains": "{0} contains {1}.",
        "clean": "{0} is clean.",
        "used": "{0} was used for {1}.",
        "dispenses": "{0} dispenses {1}.",
        "unshaked": "{0} is not shaken.",
        "shaked": "{0} is shaken.",
        "cocktail-part1": "{0} needs {1}.",
        "cocktail-part2": "{0} needs {1}.",
    },
    actions={
        "grasp": "grasp {1} with {0}",
        "leave": "put down {1}",
        "fill-shot": "fill {0} with {1}",
        "refill-shot": "refill {0} with {1}",
        "empty-shot": "empty {1}",
        "clean-shot": "clean {0}",
        "pour-shot-to-clean-shaker": "pour {0} into {2}",
        "pour-shot-to-used-shaker": "pour {0} into {2}",
        "empty-shaker": "empty {1}",
        "clean-shaker": "clean {2}",
        "shake": "shake {0} in {3}",
        "pour-shaker-to-shot": "pour {3} into {1}",
    },
)

TYREWORLD = DomainWords(
    rules=(
        "You replace the wheels of a car; tools and spare wheels are in the boot.",
        "'open boot' and 'close boot' open and close a container that is unlocked.",
        "'fetch wrench from boot' takes something from an open container; 'put w1 into boot' puts it there.",
        "'loosen nuts1 on the-hub1' and 'tighten nuts1 on the-hub1' need the wrench and a hub on the ground.",
        "'jack up the-hub1' needs the jack, which stays there until 'jack down the-hub1'.",
        "'undo nuts1 on the-hub1' takes loose nuts from a jacked up hub, with the wrench; 'do up' puts them on again.",
        "'remove w1 from the-hub1' and 'put r1 on the-hub1' need a hub that is jacked up and without nuts.",
        "'inflate r1' needs the pump and an intact wheel.",
        LOOK_RULE,
    ),
    facts={
        "isopen": "{0} is open.",
        "closed": "{0} is closed.",
        "have": "You have {0}.",
        "in": "{0} is in {1}.",
        "loose": "{0} on {1} is loose.",
        "tight": "{0} on {1} is tight.",
        "unlocked": "{0} is unlocked.",
        "on-ground": "{0} is on the ground.",
        "not-on-ground": "{0} is jacked up.",
        "inflated": "Wheel {0} is inflated.",
        "not-inflated": "Wheel {0} is not inflated.",
        "fastened": "{0} has its nuts.",
        "unfastened": "{0} has no nuts.",
        "free": "{0} has no wheel.",
        "on": "{0} is on {1}.",
        "intact": "Wheel {0} is intact.",
    },
    actions={
        "open": "open {0}",
        "close": "close {0}",
        "fetch": "fetch {0} from {1}",
        "put-away": "put {0} into {1}",
        "loosen": "loosen {0} on {1}",
        "tighten": "tighten {0} on {1}",
        "jack-up": "jack up {0}",
        "jack-down": "jack down {0}",
        "undo": "undo {0} on {1}",
        "do-up": "do up {0} on {1}",
        "remove-wheel": "remove {0} from {1}",
        "put-on-wheel": "put {0} on {1}",
        "inflate": "inflate {0}",
    },
)

# By the name inside the domain file.
DOMAINS: Mapping[str, DomainWords] = {
    "gripper-strips": GRIPPER,
    "blocksworld-4ops": BLOCKWORLD,
    "barman": BARMAN,
    "tyreworld": TYREWORLD,
}
