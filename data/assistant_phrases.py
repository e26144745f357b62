"""How people talk about each attribute, in wordings of their own for train, val and test.

The table gives for each attribute its value pool and, split by split, ways to state it, to change it and to ask for
it, in the first person. `{v}` is the value, `{old}` the value before it. Train says everything in more ways than the
others: what is to be learnt is the thing and not one way to say it. `assistant_frames` has what fits any attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agemem_dspy.data.assistant_values import SPLITS, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The sentences of one attribute in one split."""

    states: tuple[str, ...]
    changes: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something that can be known about a person: its label, its value pool, its wordings."""

    label: str
    pool: str
    wordings: dict[Split, Wording]


COMPANION = "travel companion"

_TABLE = """
home airport = cities
  train: I always fly out of {v}. / The airport near my home is {v}. / My flights usually start in {v}. / I live in
    {v}, so fly me out of there. / Home for me is {v}. / {v} airport is a ten minute drive for me. / I leave from {v}. /
    My family and I are based in {v}. | I moved, so I fly out of {v} now. / I am based in {v} now. / {v} became my
    airport, {old} is too far. | Which airport do I fly out of? / Where do I fly from? / Where am I based?
  val: All my trips begin at {v} airport. / From my house the airport in {v} is nearest. | My trips begin at {v}
    airport since the move. | At which airport do my trips begin?
  test: I live close to the airport in {v}. / Look for departures from {v}, that is my airport. | I relocated, look
    for departures from {v}. | Where should my departures be from?
next destination = cities
  train: My next trip goes to {v}. / Soon I am off to {v}. / I am going to {v}. / We are flying to {v} soon. / My
    holiday will be in {v}. / I bought a ticket to {v}. / This time I want to see {v}. / I am off to {v} in two weeks. |
    The trip goes to {v} instead. / I am going to {v}, not to {old}. / We picked {v} over {old}. | Where does my next
    trip go? / Where am I going? / Where will my holiday be?
  val: I am travelling to {v} next. / The coming journey takes me to {v}. | The journey takes me to {v} after all. |
    Which city am I travelling to next?
  test: Next on my travel list is {v}. / I will visit {v} this season. | I will visit {v} rather than {old}. | What
    place will I visit next?
hotel = hotels
  train: I booked a room at {v}. / My hotel room is at the {v}. / I am staying at the {v}. / We sleep at the {v}. / My
    bed is at the {v}. / The {v} has a room for me. / I will be at the {v} all week. / My luggage can go to the {v}. | I
    moved my booking to {v}. / I am staying at the {v} now. / The {old} was full, so we sleep at the {v}. | Where did I
    book a room? / Where am I staying? / Where can my luggage go?
  val: I will stay at {v}. / They reserved a bed for me at {v}. | I will stay at {v} instead of {old}. | At which
    hotel will I stay?
  test: My nights are reserved at {v}. / Check-in for me is at {v}. | Check-in is at {v} after the cancellation. |
    Which hotel has my reservation?
hotel budget = budgets
  train: I can spend {v} a night on a hotel. / Hotels should cost at most {v}. / I want to pay {v} for a night at
    most. / {v} a night is my maximum. / Nothing above {v} a night, please. / I have {v} for each night. / My boss gives
    me {v} a night. / Find me something for {v} or less. | I can now spend {v} a night on a hotel. / {v} a night is my
    new maximum. / My boss now gives me {v}, not {old}. | How much can I spend on a hotel? / What is my maximum for a
    night? / How much do I have for each night?
  val: A room may not exceed {v} per night. / My limit for rooms is {v}. | My limit for rooms moved to {v}. | What is
    my limit for rooms?
  test: I set aside {v} for each hotel night. / For accommodation I pay up to {v}. | For accommodation I pay up to {v}
    by now. | Up to how much do I pay for accommodation?
flight = flights
  train: I am booked on flight {v}. / My ticket says flight {v}. / I fly on {v}. / My plane is {v}. / I got a seat on
    {v}. / We take flight {v} home. / I am on the {v} this time. / They put me on {v}. | They moved me to flight {v}. /
    I fly on {v}, not on {old}. / My plane is {v} now. | Which flight am I booked on? / What is my plane? / Which flight
    am I on?
  val: I got a place on {v}, the early plane. / The plane I take has number {v}. | The plane I take is {v} after a
    rebooking. | What number has the plane I take?
  test: I will be flying with {v}. / The flight number they gave me is {v}. | I was rebooked from {old} to {v}. | What
    flight number did they give me?
seat preference = seats
  train: I like to sit in {v} seats. / On planes I pick {v} seats. / I want a {v} seat. / Book me a {v} seat. / Any
    {v} seat makes me happy. / I only sit well in {v} seats. / A {v} seat for me, as always. / We always take {v} seats.
    | I like {v} seats better now. / I want a {v} seat now, not {old}. / Book me a {v} seat from now on. | Which seats
    do I pick on planes? / Which seat do I want? / What seat should you book me?
  val: Give me the {v} place if you can. / For me only {v} seats are fine. | Only {v} seats are fine for me now. |
    What sort of place do I want on board?
  test: I feel best on {v} seats. / When flying I ask for {v} seats. | I started to ask for {v} seats. | What seats do
    I ask for when flying?
diet = diets
  train: I only eat {v} meals. / My meals have to be {v}. / I eat {v}. / I am on a {v} diet. / Only {v} food for me. /
    We cook {v} at home. / I need a {v} menu. / I live on {v} dinners. | I switched to {v} meals. / I am on a {v} diet
    now. / I eat {v} now, not {old}. | What kind of meals do I eat? / What do I eat? / Which diet am I on?
  val: Order {v} food for me. / At restaurants I need {v} dishes. | I need {v} dishes from today. | Which dishes do I
    need at restaurants?
  test: I keep to {v} cooking. / Menus for me must be {v}. | The doctor put me on {v} cooking. | How must menus for me
    be?
allergy = foods
  train: I am allergic to {v}. / I get ill when I eat {v}. / I cannot eat {v}. / No {v} for me, I am allergic. / My
    doctor says no {v}. / My skin itches from {v}. / I have an allergy to {v}. / Keep {v} away from my plate. | The test
    says I am allergic to {v}, not {old}. / I cannot eat {v}, {old} is fine. / The new test says no {v}. | What am I
    allergic to? / What can I not eat? / What should be kept away from my plate?
  val: My body cannot handle {v}. / There must be no {v} in my food. | It was {v} and not {old} that my body rejects.
    | What must not be in my food?
  test: I react badly to {v}. / A bite of {v} sends me to hospital. | It turns out that I react to {v}. | What do I
    react badly to?
meeting day = days
  train: The meeting is on {v}. / We will meet the client on {v}. / I have a meeting on {v}. / We talk to the boss on
    {v}. / My meeting will be on {v}. / The client comes on {v}. / I must be in the office on {v}. / {v} is the day of
    our meeting. | The meeting moved to {v}. / My meeting will be on {v}, not on {old}. / The client comes on {v} now. |
    When is the meeting? / When do I meet the client? / On what day is our meeting?
  val: They invited me to the meeting of {v}. / On {v} I have to be at the meeting. | The meeting was shifted to {v}.
    | On which day do I have to be at the meeting?
  test: Our team comes together on {v}. / I promised to join the meeting on {v}. | The team comes together on {v}
    instead. | When does our team come together?
passport expiry = expiries
  train: My passport expires in {v}. / I must renew my passport before {v}. / My passport ends in {v}. / I need a new
    passport by {v}. / My passport is from the old office and lasts to {v}. / They say my passport lasts till {v}. / {v}
    is when my passport ends. / I can use my passport up to {v}. | With the renewal my passport expires in {v}. / My new
    passport ends in {v}. / I checked, my passport lasts till {v}. | When does my passport expire? / When does my
    passport end? / How long can I use my passport?
  val: The passport I have is valid until {v}. / My passport runs out in {v}. | The replacement passport runs out in
    {v}. | Until when is my passport valid?
  test: After {v} my passport is no good. / My passport is good through {v}. | I misread it, my passport is good
    through {v}. | Through what month is my passport good?
dentist = doctors
  train: I see {v} for my teeth. / My teeth are checked by {v}. / My dentist is called {v}. / I go to {v} when a tooth
    hurts. / {v} fixed my tooth. / {v} looks after my teeth. / I have been with {v} for years, a good dentist. / My
    family goes to {v} for teeth. | I go to {v} for my teeth now. / My new dentist is called {v}. / {v} looks after my
    teeth now, not {old}. | Who checks my teeth? / Who is my dentist? / Who looks after my teeth?
  val: For toothache I call {v}. / The dentist I trust is {v}. | The dentist I trust today is {v}. | Who do I call for
    toothache?
  test: I have a dental appointment with {v}. / My fillings are done by {v}. | From this year {v} does my fillings. |
    Who does my fillings?
tour guide = people
  train: Our tour guide will be {v}. / The guide is called {v}. / {v} will show us the city. / Our guide is {v}. / I
    hired {v} as a guide. / We follow {v} through the old town. / The tour is led by {v}. / I meet {v}, my guide, at the
    gate. | Our tour guide will be {v} instead. / Our guide is {v} now, not {old}. / The tour is now led by {v}. | Who
    will be our tour guide? / Who will show us the city? / Who is our guide?
  val: The person who shows us around is {v}. / {v} leads our sightseeing walk. | Now {v} leads our sightseeing walk.
    | Who leads our sightseeing walk?
  test: We hired {v} as tour guide. / Our walking tour is with {v}. | The agency gave us {v} as tour guide, not {old}.
    | Who did we hire as tour guide?
travel companion = people
  train: I travel together with {v}. / My friend {v} comes with me. / I go with {v}. / {v} travels with me. / I am
    taking {v} with me. / We are two, {v} and I. / {v} and I leave together. / I will share a room with {v}. | My friend
    {v} comes with me instead of {old}. / I go with {v}, not with {old}. / {v} travels with me now. | Who travels
    together with me? / Who goes with me? / Who will share a room with me?
  val: The person I travel with is {v}. / {v} shares this trip with me. | It is {v} who shares this trip with me now.
    | Who shares this trip with me?
  test: I take {v} along. / The seat beside me belongs to {v}. | I take {v} along because {old} is busy. | Who do I
    take along?
airline = airlines
  train: I like to fly with {v}. / My miles are with {v}. / I always take {v}. / I fly {v} when I can. / {v} is the
    best airline for me. / Book me on {v}. / I have a card of {v}. / My company pays for {v}. | I moved my miles to {v}.
    / I fly {v} now, not {old}. / Book me on {v} from now on. | Which airline has my miles? / Which airline should you
    book? / Which airline do I always take?
  val: I only buy tickets from {v}. / As a carrier I trust {v}. | The carrier I trust these days is {v}. | From which
    carrier do I buy tickets?
  test: I am a regular customer of {v}. / Search for planes of {v} first. | I am done with {old}, search for {v}. |
    Which carrier should you search for first?
luggage code = codes
  train: My luggage opens with {v}. / I set the lock of my luggage to {v}. / The code of my suitcase is {v}. / I open
    my bag with {v}. / My bag has the code {v}. / {v} opens my suitcase. / The lock on my bag wants {v}. / I chose {v}
    for the bag. | I set the luggage lock to {v} today. / My bag has the code {v} now. / {v} opens my suitcase, not
    {old}. | How does my luggage open? / What opens my suitcase? / Which code has my bag?
  val: The digits for my suitcase are {v}. / Use {v} to unlock the suitcase. | The suitcase digits turned into {v}. |
    Which digits unlock the suitcase?
  test: The combination of my trunk is {v}. / Dial {v} and my luggage is open. | You must dial {v} for my luggage by
    now. | What do I dial for my luggage?
language course = languages
  train: I am learning {v}. / I signed up for a {v} course. / I study {v}. / I started to learn {v}. / My teacher
    speaks {v} with me. / I have a {v} class every week. / We learn {v} at night school. / I want to speak {v} one day.
    | I am learning {v} now. / I study {v} now, not {old}. / My class is in {v} now. | Which language am I learning? /
    Which language do I study? / What class do I have every week?
  val: I take lessons in {v}. / On weekends I study {v}. | My lessons are in {v} from this month. | In which language
    do I take lessons?
  test: I joined a class for {v}. / My evenings go into {v} grammar. | I left the {old} class and joined {v}. | Which
    language class did I join?
hobby = hobbies
  train: I enjoy {v} in my free time. / My big passion is {v}. / I love {v}. / What I do for fun is {v}. / I go {v}
    with friends. / On free days I like {v}. / I have always liked {v}. / My weekends are for {v}. | I gave up {old} and
    took up {v}. / I love {v} now, not {old}. / What I do for fun now is {v}. | What do I enjoy in my free time? / What
    do I love? / What do I do for fun?
  val: Nothing relaxes me like {v}. / I spend Sundays on {v}. | I spend Sundays on {v} nowadays. | What do I spend
    Sundays on?
  test: I am really into {v}. / After work I do some {v}. | I lost interest in {old} and do {v}. | What am I really
    into?
train time = times
  train: My train leaves at {v}. / I take the train at {v}. / I go by train at {v}. / My train is at {v}. / The {v}
    train is mine. / We catch the train at {v}. / I have a seat on the {v} train. / I must be at the station by {v}. |
    The train leaves at {v} now. / My train is at {v}, not at {old}. / We catch the {v} train now. | When does my train
    leave? / What time is my train? / When do we catch the train?
  val: The railway ticket is for {v}. / I have to be on the platform at {v}. | The railway ticket is for {v} after the
    exchange. | What time is the railway ticket for?
  test: The departure of my train is {v}. / By rail I set off at {v}. | By rail I set off at {v}, not {old}. | When do
    I set off by rail?
gift idea = gifts
  train: I want to give my mother a {v}. / A {v} would be my gift. / I will buy a {v} for my mother. / My mother wants
    a {v}. / We give her a {v}. / A {v} would make my mother happy. / I saw a {v} that she would love. / I want a {v} as
    a present. | I will give my mother a {v} instead. / My mother wants a {v}, not a {old}. / I will buy a {v} for her
    now. | What do I want to give my mother? / What will I buy for my mother? / What does my mother want?
  val: For the birthday I will bring a {v}. / The present should be a {v}. | The present should be a {v} after all. |
    What should the present be?
  test: I plan to surprise my aunt with a {v}. / For my aunt I look for a {v}. | My aunt gets a {v} rather than a
    {old}. | What do I look for as surprise for my aunt?
"""


def _read(table: str) -> Iterator[Attribute]:
    for block in table.replace("\n    ", " ").strip().split("\n"):
        if " = " in block:
            label, _, pool = block.partition(" = ")
            wordings: dict[Split, Wording] = {}
            continue
        name, _, sentences = block.strip().partition(": ")
        states, changes, asks = (tuple(one.strip() for one in part.split(" / ")) for part in sentences.split("|"))
        split = SPLITS[len(wordings)]
        if name != split:
            raise ValueError(f"the wordings of {label!r} must come in the order {SPLITS}, found {name!r}")
        wordings[split] = Wording(states=states, changes=changes, asks=asks)
        if len(wordings) == len(SPLITS):
            yield Attribute(label=label, pool=pool, wordings=wordings)


ATTRIBUTES: tuple[Attribute, ...] = tuple(_read(_TABLE))
BY_LABEL: dict[str, Attribute] = {attribute.label: attribute for attribute in ATTRIBUTES}
