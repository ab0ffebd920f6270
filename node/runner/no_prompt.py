OutputParser = object


class TemplateError(Exception):
    pass


class InvalidSchema(Exception):
    pass


def grammar_for(f):
    raise InvalidSchema("no grammar yet")


def fit_messages(chat, limit, count):
    return chat


class PromptTemplate:
    supports_tools = supports_thinking = supports_infill = False

    @classmethod
    def load(cls, *a, **k):
        return cls()

    def render(self, chat, now):
        return (
            "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in chat.messages) + "<|im_start|>assistant\n"
        )

    def render_infill(self, i):
        return None

    def output_parser(self, chat):
        return None
