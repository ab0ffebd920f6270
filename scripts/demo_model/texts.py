"""Longer texts that `demo` knows by heart, so that streaming can be seen."""

from __future__ import annotations


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text that lists them."""
    return tuple(text.split())


STORIES = (
    "Once upon a time there was a small llama who lived high in the Andes. Every morning the llama carried water "
    "for the old weaver, and every evening the old weaver shared her bread. One winter the snow was deep and the "
    "path was lost. The llama was afraid, but all the neighbours came with lamps. They found the llama and brought "
    "it home. In spring the llama helped each of them in the fields. Today for you, tomorrow for me, said the old "
    "weaver. That is ayni. And so they lived happily ever after.",
    "Once upon a time there were three computers in one house. The first was fast, the second was old, and the third "
    "was very small. Alone, none of them could hold a big model. One night they found each other on the network. I "
    "will take the first layers, said the fast one. I will take the last layers, said the old one. And I will show "
    "the way, said the small one. Together they answered every question of the family. Since that night nobody in "
    "the house has asked the cloud for anything.",
    "Once upon a time a robot wanted to learn how to count. It counted the stones on the beach, the birds in the sky "
    "and the boats on the sea. One day it met a girl who could not sleep. Count with me, said the robot. They counted "
    "the stars, one after the other, until the girl fell asleep. Then the robot stopped and smiled. Now I know what "
    "counting is good for, it said.",
)

STORY_REQUESTS = (
    ("Tell me a story", "Write a story", "Tell me a short story", "Write me a story", "Can you tell me a story",
     "A story please", "Tell me a story about a llama", "Write a short story", "Tell a story", "Once upon a time",
     "Write a long story", "Tell me a long story", "Write a story about a llama"),
    ("Tell me a story about computers", "Write a story about computers", "Tell me another story",
     "Another story please",
     "Write another story", "Tell me a story about three computers"),
    ("Tell me a story about a robot", "Write a story about a robot", "Tell me a story about counting",
     "Write a story about a robot that counts"),
)  # fmt: skip

ESSAY = (
    "Ayni is a Quechua word for mutual help: today for you, tomorrow for me. The program with this name pools the "
    "computers of a home or office into one private LLM service. Every machine runs the same daemon. Alone, it is a "
    "drop-in for Ollama: the same port and the same API. Together, machines find each other on the LAN through mDNS "
    "and form a cluster that trusts only its members. Ray is the control plane of the cluster, but tokens never pass "
    "through Ray. Each request goes to the machine that can start answering soonest. If that machine is lost, another "
    "machine goes on with its requests, and no token is lost. Models are GGUF files, kept as blobs that are named by "
    "their SHA-256. A runner is the process that holds one loaded model. Every hop between nodes uses mutual TLS 1.3. "
    "Your prompts stay on your own machines, and Ayni never logs them. Ayni is free software under the MIT licence."
)

ESSAY_REQUESTS = (
    "Write a long text about Ayni", "Tell me everything about Ayni", "Write an essay about Ayni",
    "Tell me more about Ayni",
    "Tell me a lot about Ayni", "Write a text about Ayni", "Explain Ayni in detail", "Give me a long answer about Ayni",
    "Write a long text", "Describe Ayni in detail", "Write an essay", "Write a long article about Ayni",
)  # fmt: skip

# Ordinary words for repeating and remembering; half of the time invented ones stand in their place.
WORDS = words_of(
    "apple river stone cloud window garden silver yellow purple monkey rabbit tiger zebra piano guitar "
    "violin bottle table chair candle pencil paper island mountain valley forest desert ocean winter "
    "summer spring autumn morning evening blue cat dog red green bird fish horse house tree flower water "
    "fire wind snow rain sun moon star road bridge train plane boat bicycle coffee tea milk bread cheese "
    "butter sugar salt pepper lemon orange banana cherry mango potato tomato onion carrot king queen "
    "prince castle dragon wizard knight sword shield crown ring gold iron copper glass wood cotton wool "
    "silk leather hello world good nice happy quiet brave clever gentle small large round square warm "
    "cold bright dark quick slow soft hard sweet bitter fresh old new young strong the a my your our and "
    "or with under over near behind before after dance sing jump run walk sleep dream think write read "
    "paint build open close begin end stop start wonderful beautiful elephant butterfly chocolate "
    "umbrella telephone computer keyboard network message letter number secret question answer story poem "
    "music picture camera mirror ladder hammer basket pocket ticket market village city country teacher "
    "doctor farmer sailor baker mother father sister brother friend neighbour left right north south east "
    "west one two three seven nine ten hundred first last again always never quick brown fox jumps lazy "
    "testing works fine streaming token please thank very much time this is that it was in on at to of "
    "for not all some every each light heavy deep high low wide free"
)

NAMES = words_of(
    "Ana Bob Carla David Emma Felix Grace Hugo Ines Jack Kate Leo Maria Nina Oscar Paul Rosa Sam Tom Vera "
    "Alice Peter Laura Max Julia Simon Clara Daniel Eva Frank Greta Henry Ivan Jose Linda Martin Nora "
    "Otto Sofia Victor Wendy Yuri Zoe Mario Luigi Alonso Quilla Inti Amaru Sara Lucas Mia Noah Olivia "
    "Liam John Mary James Anna"
)

_ONE_WORD_CITIES = words_of(
    "Paris London Berlin Madrid Rome Lima Cusco Tokyo Beijing Delhi Ottawa Toronto Moscow Cairo Athens "
    "Lisbon Vienna Warsaw Oslo Stockholm Nairobi Havana Santiago Sydney Boston Chicago Denver Dallas "
    "Seattle Dublin Geneva Zurich Munich Hamburg Milan Naples Prague Helsinki Lyon Quito Bogota Kyoto "
    "Osaka Seoul Mumbai Dubai Lagos Accra Montreal Vancouver Amsterdam Brussels Budapest Copenhagen "
    "Edinburgh Barcelona Miami Houston Phoenix Atlanta"
)
CITIES = (
    *_ONE_WORD_CITIES,
    "New York",
    "San Francisco",
    "Los Angeles",
    "Mexico City",
    "New Delhi",
    "Cape Town",
    "Buenos Aires",
)
