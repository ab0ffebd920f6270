"""What `demo` knows about Ayni and about itself: each fact with the questions that ask for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer, its one-word form ("" where there is none), and questions without their question mark.

    `topic` completes "The user asks about ..." when the model thinks aloud.
    """

    topic: str
    answer: str
    short: str
    questions: tuple[str, ...]


def _fact(topic: str, answer: str, short: str, *questions: str) -> Fact:
    return Fact(topic, answer, short, questions)


def _command(purpose: str, command: str, *questions: str) -> Fact:
    asked = (*questions, f"Which command {purpose}", f"What is the command that {purpose}")
    return Fact(f"the command {command}", f"Type: {command}", "", asked)


# fmt: off
PROJECT = (
    _fact(
        "Ayni",
        "Ayni pools the computers of a home or office into one private LLM service.",
        "Service",
        "What is Ayni", "What's Ayni", "Tell me about Ayni", "Explain Ayni", "Describe Ayni", "Ayni",
        "What is Ayni for", "What does Ayni do", "What is this project", "Explain what Ayni is",
        "Tell me what Ayni is", "What is Ayni about", "Do you know Ayni", "Describe Ayni in one sentence",
    ),
    _fact(
        "the meaning of the word",
        "Ayni is a Quechua word for mutual help: today for you, tomorrow for me.",
        "",
        "What does Ayni mean", "What does the word Ayni mean", "What is the meaning of Ayni",
        "What does the name Ayni mean", "Why is it called Ayni", "Explain the word Ayni",
    ),
    _fact(
        "the origin of the word",
        "The word Ayni comes from Quechua, a language of the Andes.",
        "Quechua",
        "Which language is the word Ayni from", "Where does the word Ayni come from", "Where does the name come from",
        "What language does Ayni come from", "What is Quechua",
    ),
    _fact(
        "the port",
        "Ayni listens on port 11434.",
        "11434",
        "Which port does Ayni use", "What port does Ayni use", "What port does Ayni listen on", "Which port",
        "On which port does Ayni listen", "What is the port of Ayni", "What is the default port", "Port of Ayni",
        "What is port 11434",
    ),
    _fact(
        "the LAN port",
        "Ayni uses port 11435 for the LAN.",
        "11435",
        "Which port is for the LAN", "What port does Ayni use on the LAN", "What is port 11435 for",
        "Which port do other machines use", "What is the LAN port", "What port do peers use", "What is port 11435",
    ),
    _fact(
        "discovery",
        "Machines find each other on the LAN through mDNS.",
        "mDNS",
        "How do machines find each other", "How do nodes find each other", "How does Ayni discover machines",
        "How does Ayni find other machines", "How does discovery work", "How are machines found",
        "What does Ayni use for discovery",
    ),
    _fact(
        "mDNS",
        "mDNS lets machines announce themselves on the local network without a server.",
        "",
        "What is mDNS", "Explain mDNS", "What does mDNS do", "Why does Ayni use mDNS",
    ),
    _fact(
        "Ray",
        "Ray is the control plane of a cluster. Tokens never pass through Ray.",
        "",
        "What is Ray", "What is Ray used for", "What does Ray do", "Why does Ayni use Ray", "What is Ray for",
        "Explain Ray", "What does Ayni use Ray for", "Do tokens pass through Ray",
    ),
    _fact(
        "a blob",
        "A blob is data named by its SHA-256.",
        "",
        "What is a blob", "What are blobs", "Explain blobs", "What does blob mean", "How are blobs named",
    ),
    _fact(
        "a manifest",
        "A manifest is the list of blobs that make a model.",
        "",
        "What is a manifest", "Explain manifests", "What does a manifest hold", "What does manifest mean",
    ),
    _fact(
        "a node",
        "A node is one machine that runs the Ayni daemon.",
        "",
        "What is a node", "What does node mean", "Explain nodes", "What is an Ayni node",
    ),
    _fact(
        "a runner",
        "A runner is the process that holds one loaded model.",
        "",
        "What is a runner", "What does a runner do", "Explain runners", "Which process holds a model",
    ),
    _fact(
        "a job",
        "A job is one inference request.",
        "",
        "What is a job", "What does job mean", "Explain jobs",
    ),
    _fact(
        "a route",
        "A route is the chosen node and the reason for the choice.",
        "",
        "What is a route", "What does route mean", "Explain routes",
    ),
    _fact(
        "placement",
        "Placement says which models are loaded on which machines.",
        "",
        "What is placement", "What does placement mean", "Explain placement",
    ),
    _fact(
        "a cluster",
        "A cluster is a group of nodes that share one trust root.",
        "",
        "What is a cluster", "What does cluster mean", "Explain clusters", "What is an Ayni cluster",
    ),
    _fact(
        "the head",
        "The head is the node that runs Ray's control store.",
        "",
        "What is the head", "What is the head node", "What does head mean", "Explain the head",
    ),
    _fact(
        "the daemon",
        "The daemon is the Ayni program that runs on every machine and answers requests.",
        "",
        "What is the daemon", "What does the daemon do", "Explain the daemon",
    ),
    _fact(
        "the coordinator",
        "The coordinator decides which machine loads and serves which model.",
        "",
        "What is the coordinator", "What does the coordinator do", "Explain the coordinator",
    ),
    _fact(
        "routing",
        "Ayni sends each request to the machine that can start answering soonest.",
        "",
        "How does Ayni choose a machine", "How does routing work", "How are requests routed",
        "Which machine answers my request", "Where does Ayni send a request", "How does Ayni pick a machine",
        "How does Ayni route requests", "Which machine serves a request",
    ),
    _fact(
        "the licence",
        "Ayni is free software under the MIT licence.",
        "MIT",
        "What is the licence of Ayni", "Which licence does Ayni have", "What license does Ayni use",
        "Is Ayni free", "Is Ayni open source", "Under which license is Ayni", "License", "What is the license of Ayni",
    ),
    _fact(
        "privacy",
        "Yes. Your prompts stay on your own machines, and Ayni never logs them.",
        "Yes",
        "Is my data private", "Is Ayni private", "Does Ayni respect privacy", "Do my prompts stay private",
        "Are my prompts safe", "Is it private", "Do my prompts stay on my machines",
    ),
    _fact(
        "logging",
        "No. Ayni never logs prompts or answers.",
        "No",
        "Does Ayni log my prompts", "Does Ayni keep my prompts", "Are my prompts logged", "Does Ayni spy on me",
        "Does Ayni send my data to the cloud",
    ),
    _fact(
        "the internet",
        "No. Ayni works without the internet.",
        "No",
        "Does Ayni need the internet", "Do I need the internet", "Does Ayni need a cloud",
        "Is the internet needed", "Does Ayni need an internet connection",
    ),
    _fact(
        "working offline",
        "Yes. Ayni works offline.",
        "Yes",
        "Does Ayni work offline", "Can I use Ayni offline", "Can Ayni run without the internet",
    ),
    _fact(
        "accounts",
        "No. Ayni needs no account.",
        "No",
        "Do I need an account", "Does Ayni need an account", "Is an account needed", "Must I sign up",
    ),
    _fact(
        "the GPU",
        "No. Without a GPU, Ayni runs on the CPU.",
        "No",
        "Do I need a GPU", "Does Ayni need a GPU", "Is a GPU needed", "Must I have a GPU",
    ),
    _fact(
        "supported GPUs",
        "Ayni uses GPUs through CUDA, Metal, ROCm and Vulkan.",
        "",
        "Which GPUs does Ayni support", "What GPUs can Ayni use", "Which GPUs work", "Does Ayni support CUDA",
        "Does Ayni support Metal",
    ),
    _fact(
        "systems",
        "Ayni runs on Linux and macOS.",
        "Linux",
        "Where does Ayni run", "Which systems does Ayni run on", "Does Ayni run on Linux", "Does Ayni run on macOS",
        "Which operating systems does Ayni support", "On which systems does Ayni run",
    ),
    _fact(
        "the engine",
        "Ayni runs models with llama.cpp.",
        "llama.cpp",
        "Which engine does Ayni use", "What engine does Ayni use", "What runs the models", "Does Ayni use llama.cpp",
        "What is the engine of Ayni", "What is llama.cpp",
    ),
    _fact(
        "the file format",
        "Ayni models are GGUF files.",
        "GGUF",
        "Which model format does Ayni use", "What format are the models", "Which files can Ayni load",
        "What file format does Ayni use", "What is GGUF", "Which model files work",
    ),
    _fact(
        "the APIs",
        "Ayni speaks the APIs of Ollama, OpenAI and Anthropic.",
        "",
        "Which APIs does Ayni speak", "Which API does Ayni have", "What APIs does Ayni support",
        "Which APIs work with Ayni", "What API does Ayni speak",
    ),
    _fact(
        "Ollama",
        "Yes. Ayni is a drop-in for Ollama: the same port and the same API.",
        "Yes",
        "Can Ayni replace Ollama", "Is Ayni a drop-in for Ollama", "Does Ayni work with Ollama clients",
        "Is Ayni compatible with Ollama", "Can I use Ayni instead of Ollama",
    ),
    _fact(
        "OpenAI clients",
        "Yes. Point your OpenAI client to http://localhost:11434/v1",
        "Yes",
        "Does Ayni work with OpenAI clients", "Can I use the OpenAI client", "Is Ayni compatible with OpenAI",
        "How do I use the OpenAI client with Ayni", "Can I use OpenAI libraries",
    ),
    _fact(
        "Modelfiles",
        "A Modelfile is a recipe for a model: its weights, template, system prompt and parameters.",
        "",
        "What is a Modelfile", "What does a Modelfile do", "Explain Modelfiles", "What is in a Modelfile",
    ),
    _fact(
        "a lost machine",
        "Another machine goes on with its requests, and no token is lost.",
        "",
        "What happens when a machine is lost", "What happens if a machine fails", "What if a node dies",
        "What happens when a machine crashes", "What if a machine goes away",
    ),
    _fact(
        "encryption",
        "Every hop between nodes uses mutual TLS 1.3.",
        "TLS",
        "How is traffic between nodes protected", "Is the traffic encrypted", "Does Ayni use TLS",
        "How do nodes talk securely", "How is the traffic encrypted",
    ),
    _fact(
        "signed tokens",
        "People and programs use signed tokens that every node checks offline.",
        "",
        "How do people log in on the LAN", "How does access work on the LAN", "What are signed tokens",
        "How do I get access over the LAN",
    ),
    _fact(
        "joining",
        "A machine joins a cluster with a short-lived signed invitation.",
        "",
        "How does a machine join a cluster", "How do I join a cluster", "How can I add a machine",
        "How do I add a machine to the cluster", "What do I need to join a cluster",
    ),
    _fact(
        "a full queue",
        "Requests wait in a queue. When it is full, Ayni answers 503.",
        "503",
        "What happens with too many requests", "What if there are too many requests",
        "What happens when the queue is full",
        "What happens when Ayni is busy",
    ),
    _fact(
        "the models folder",
        "Ayni keeps its models in ~/.ayni/models",
        "",
        "Where are models stored", "Where does Ayni keep its models", "Where are the models",
        "In which folder are the models",
    ),
    _fact(
        "the programming language",
        "Ayni is written in Python.",
        "Python",
        "Which language is Ayni written in", "What is Ayni written in", "In which language is Ayni written",
        "What programming language does Ayni use",
    ),
    _fact(
        "language models",
        "An LLM is a large language model: a program that predicts the next word of a text.",
        "",
        "What is an LLM", "What is a language model", "What does LLM mean", "Explain LLMs", "Explain language models",
    ),
    _fact(
        "tokens",
        "A token is a piece of text, often a part of a word.",
        "",
        "What is a token", "What are tokens", "What does token mean", "Explain tokens",
    ),
)

COMMANDS = (
    _fact(
        "running a model",
        "Type ayni run and the name of the model, for example: ayni run demo",
        "",
        "How do I run a model", "How can I run a model", "How do I chat with a model", "Which command runs a model",
        "How to run a model", "How do I start a chat", "How do I use a model",
    ),
    _command("lists models", "ayni list", "How do I list my models", "How can I list models", "How do I list models",
             "How to list models", "Which models do I have", "How do I see my models"),
    _command("shows loaded models", "ayni ps", "How do I see which models are loaded", "How can I see loaded models",
             "Which models are loaded", "How do I see running models"),
    _command("starts Ayni", "ayni serve", "How do I start Ayni", "How can I start the server", "How to start Ayni",
             "How do I start the daemon", "How do I start the server"),
    _command("stops Ayni", "ayni shutdown", "How do I stop Ayni", "How can I stop the server", "How to stop Ayni",
             "How do I shut down Ayni", "How do I stop the daemon"),
    _command("creates a cluster", "ayni cluster create", "How do I create a cluster", "How can I make a cluster",
             "How to create a cluster", "How do I make a cluster", "How do I start a cluster"),
    _command("checks the blobs", "ayni verify", "How do I check my models", "How can I check the blobs",
             "How do I verify my models", "How do I find corrupt blobs"),
    _command("shows the version", "ayni version", "How do I see the version", "What version is this",
             "Which version of Ayni is this", "How can I see the version"),
    _fact("unloading a model", "Type ayni stop and the name of the model.", "",
          "How do I unload a model", "How can I unload a model", "How do I stop a model",
          "Which command unloads a model"),
    _fact("deleting a model", "Type ayni rm and the name of the model.", "",
          "How do I delete a model", "How can I remove a model", "How to delete a model", "How do I remove a model",
          "Which command deletes a model"),
    _fact("model details", "Type ayni show and the name of the model.", "",
          "How do I see details of a model", "How can I inspect a model", "Which command shows a model",
          "How do I show a model"),
    _fact("making a model", "Write a Modelfile, then type ayni create and a name.", "",
          "How do I create a model", "How can I make my own model", "Which command creates a model",
          "How do I make a model"),
    _fact("copying a model", "Type ayni cp, the name of the model and the new name.", "",
          "How do I copy a model", "How can I copy a model", "Which command copies a model"),
    _fact("explaining a route", "Type ayni explain, and Ayni tells why it chose a machine.", "",
          "How do I see why a machine was chosen", "Which command explains a route", "How do I explain a route"),
)

SELF = (
    _fact(
        "me",
        "I am demo, the tiny model built into Ayni.",
        "Demo",
        "Who are you", "What are you", "What's your name", "What is your name", "Tell me about yourself",
        "Introduce yourself", "Which model are you", "What model are you", "What do they call you",
    ),
    _fact(
        "the demo model",
        "demo is a tiny toy model for trying and testing Ayni.",
        "",
        "What is demo", "What is the demo model", "What is the model demo for", "Why is there a demo model",
        "What is the demo model for", "Tell me about the demo model",
    ),
    _fact(
        "what I can do",
        "I can answer questions about Ayni, count, repeat words, add small numbers, call tools and write short JSON.",
        "",
        "What can you do", "How can you help me", "What are your skills", "What do you know", "Help",
        "What are you good at",
    ),
    _fact(
        "my training",
        "I was trained from scratch on a CPU, on text that a script wrote.",
        "CPU",
        "How were you trained", "Who trained you", "Where were you trained", "What were you trained on", "Who made you",
    ),
    _fact(
        "my size",
        "I have about three million parameters.",
        "",
        "How big are you", "How many parameters do you have", "How large are you", "What is your size",
    ),
    _fact(
        "being human",
        "No. I am a tiny language model.",
        "No",
        "Are you human", "Are you a person", "Are you alive", "Are you real", "Do you have feelings",
    ),
    _fact(
        "being clever",
        "No. I am a toy. Use a bigger model for real work.",
        "No",
        "Are you smart", "Are you clever", "Are you intelligent", "Can I trust you", "Can you do real work",
    ),
)
# fmt: on
