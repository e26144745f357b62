"""Wordings that fit any attribute: state, change, forget, ask, lead in, small talk; split by split.

`{s}` is the subject ("my home airport", "Marta's diet"), `{S}` the same with a capital,
`{v}` the value, `{old}` the value before it, `{l}` a bare label, `{n}` a person's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from agemem_dspy.data.assistant_values import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The general wordings of one split. `leads` announces a fact that `follows` then gives."""

    states: tuple[str, ...]
    changes: tuple[str, ...]
    forgets: tuple[str, ...]
    asks: tuple[str, ...]
    joint_asks: tuple[str, ...]
    bridge_asks: tuple[str, ...]
    leads: tuple[str, ...]
    follows: tuple[str, ...]
    small_talk: tuple[str, ...]


FRAMES: dict[Split, Frames] = {
    "train": Frames(
        states=(
            "By the way, {s} is {v}.",
            "Just so you know, {s} is {v}.",
            "Please note that {s} is {v}.",
            "While I remember, {s} is {v}.",
            "For later, {s} is {v}.",
            "{S} is {v}, in case you need it.",
            "{S} is {v}.",
            "Remember that {s} is {v}.",
            "You should know that {s} is {v}.",
            "One more thing, {s} is {v}.",
            "I almost forgot, {s} is {v}.",
            "FYI, {s} is {v}.",
            "Here is {s}: {v}.",
            "Add this, {s} is {v}.",
            "{S} is {v}, do not forget it.",
            "To be clear, {s} is {v}.",
        ),
        changes=(
            "I changed my mind, {s} is now {v}.",
            "Correction: {s} is {v}, not {old}.",
            "Things changed, so {s} is {v} from now on.",
            "{S} changed from {old} to {v}.",
            "{S} is {v} now.",
            "Not {old} but {v} is {s}.",
            "Update, {s} is {v}.",
            "Please change {s} to {v}.",
            "From now on {s} is {v}, not {old}.",
            "I was wrong, {s} is {v}.",
        ),
        forgets=(
            "Please forget {s}.",
            "You can delete {s} from your notes.",
            "Remove {s}, I do not need it stored.",
            "Do not keep {s} any longer.",
            "Forget {s}.",
            "Delete {s}.",
            "Please delete {s}, it is over.",
            "{S} is not for your notes, delete it.",
            "Take {s} out of your notes.",
            "You may forget {s} again.",
        ),
        asks=(
            "What is {s}?",
            "Can you tell me {s}?",
            "Remind me, what is {s}?",
            "Do you remember {s}?",
            "Please give me {s}.",
            "Say, what is {s}?",
            "Do you know {s}?",
            "I need to know {s}.",
            "What was {s} again?",
        ),
        joint_asks=(
            "What are {s} and {t}?",
            "Can you tell me {s} and {t}?",
            "Remind me of {s} and {t}.",
        ),
        bridge_asks=(
            "What is the {l} of my travel companion?",
            "Can you tell me my travel companion's {l}?",
        ),
        leads=(
            "I finally found out about {s}.",
            "Let me tell you about {s}.",
            "There is news about {s}.",
        ),
        follows=(
            "It is {v}, so please note that down.",
            "The answer is {v}.",
            "That would be {v}.",
        ),
        small_talk=(
            "Thanks, you are a great help.",
            "What a long day it was.",
            "I am so tired this morning.",
            "Packing is always a mess.",
            "I hope the weather stays nice.",
            "Planning trips makes me happy.",
            "Hello again, how are you doing?",
            "I just had a good lunch.",
            "The queue at the bank was endless.",
            "I love a quiet evening at home.",
            "Give me a second, the phone rings.",
            "That was fast, well done.",
            "Thank you, that helps.",
            "Good morning to you.",
            "I am happy today.",
            "My coffee is cold.",
            "What a nice day.",
            "I need a walk.",
            "That is funny.",
            "I am back from lunch.",
            "It is raining here.",
            "You are so kind.",
            "I like talking with you.",
            "I feel great today.",
            "Oh well, never mind.",
            "My head hurts a little.",
            "See you later.",
        ),
    ),
    "val": Frames(
        states=(
            "Quick note, {s} is {v}.",
            "This may help you, {s} is {v}.",
            "One detail for you, {s} is {v}.",
            "{S} is {v}, for your records.",
        ),
        changes=(
            "Scrap {old}, {s} is {v} these days.",
            "On second thought, {s} is {v} instead.",
            "There was a switch, {s} is {v} as of today.",
        ),
        forgets=(
            "Kindly erase {s}.",
            "Drop {s} from memory, it is not needed anymore.",
            "I want {s} wiped from your records.",
        ),
        asks=(
            "What did I say {s} was?",
            "Tell me {s} please.",
            "I forgot {s}, what is it?",
        ),
        joint_asks=(
            "Please list {s} together with {t}.",
            "I need both {s} and {t}.",
        ),
        bridge_asks=(
            "What is the {l} of the person I travel with?",
            "I need the {l} of whoever travels with me.",
        ),
        leads=(
            "I looked up {s} this afternoon.",
            "You should learn {s}.",
        ),
        follows=(
            "As it turns out, {v} is right.",
            "Write down {v} there.",
        ),
        small_talk=(
            "You really save me a lot of time.",
            "Good evening, nice to chat again.",
            "My inbox is overflowing today.",
            "I could use a break right now.",
            "The bus was crowded as usual.",
            "Holidays cannot come soon enough.",
            "Work was rather slow this week.",
            "I slept very well last night.",
        ),
    ),
    "test": Frames(
        states=(
            "Oh, and {s} is {v}.",
            "Something useful to know: {s} is {v}.",
            "Before it slips my mind, {s} is {v}.",
            "Keep in mind that {s} is {v}.",
        ),
        changes=(
            "Actually, make that {v} for {s}.",
            "No longer {old}: {s} is {v}.",
            "New plan, {s} became {v}.",
        ),
        forgets=(
            "Stop remembering {s}.",
            "{S} is private, so please clear it.",
            "Get rid of what you know about {s}.",
        ),
        asks=(
            "Could you look up {s}?",
            "What do you have noted as {s}?",
            "Right now I need {s}, any idea?",
        ),
        joint_asks=(
            "Give me {s} as well as {t}.",
            "What did you note about {s} and about {t}?",
        ),
        bridge_asks=(
            "Could you look up the {l} of my fellow traveller?",
            "Someone joins my trip, what is the {l} of that person?",
        ),
        leads=(
            "We spoke about {s} at breakfast.",
            "I owe you word on {s}.",
        ),
        follows=(
            "In short, {v} it is.",
            "Put {v} on the list for that.",
        ),
        small_talk=(
            "Hi there, back at my desk.",
            "The garden looks lovely after the rain.",
            "I might take a nap later.",
            "Traffic was terrible on the way here.",
            "It feels like the week just started.",
            "You are quicker than I am.",
            "My desk is covered with papers.",
            "Time really flies in spring.",
        ),
    ),
}
