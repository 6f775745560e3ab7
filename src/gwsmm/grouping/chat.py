"""A conversation with a language model behind any OpenAI-compatible address."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, InputError

Taken = TypeVar("Taken")
LONGEST = 200_000  # characters of an answer; more is no answer to what is asked here


class Answer(NamedTuple):
    """What a model said.

    Attributes:
        text: of the answer; empty: it has none.
        model: that the service says it is of; None: it does not say.
    """

    text: str
    model: str | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Chat:
    """Where a model is asked, and how patiently.

    Attributes:
        base_url: of the service; None: the openai client's own.
        model: its name there.
        key: environment variable that holds the key; it is read from there alone and never shown.
        timeout: seconds for an answer.
        retries: after an answer that is refused, and after a failure of the service.
    """

    base_url: str | None
    model: str
    key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]  # no key itself is such a name
    timeout: Annotated[float, Field(gt=0)]
    retries: Annotated[int, Field(ge=0)]

    def ask(self, prompt: str, shape: Mapping[str, Any], take: Callable[[Answer], Taken]) -> Taken:
        """What is taken of the first answer that can be used; `take` is given every one.

        Args:
            prompt: the question.
            shape: properties of the JSON object that is asked for.
            take: makes of an answer what it says; raises ValueError with the reason if it cannot.

        Raises:
            InputError: openai is not installed, there is no key, the service fails, or no answer
                can be used.
        """
        client = self._client()
        said: list[dict[str, str]] = [{"role": "user", "content": prompt}]
        reason = ""
        for _ in range(self.retries + 1):
            answer = self._answer(client, said, shape)
            try:
                return take(answer)
            except ValueError as error:
                reason = " ".join(str(error).split())[:300]
            said = [
                said[0],
                {"role": "assistant", "content": answer.text[:LONGEST]},
                {"role": "user", "content": f"This cannot be used: {reason}. Answer again."},
            ]
        raise InputError(
            f"grouping.chat.model={self.model}: {self.retries + 1} answers could not be used, the "
            f"last because: {reason}; ask another model, or give grouping.record"
        )

    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise InputError(
                "grouping=llm asks by the openai client: pip install 'gwsmm[llm]', or replay what "
                "was answered with grouping.record"
            ) from None
        key = os.environ.get(self.key)
        if not key:
            raise InputError(
                f"grouping.chat.key={self.key}: this environment variable holds no key; set it, "
                "or replay what was answered with grouping.record"
            )
        return openai.OpenAI(
            api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=self.retries
        )

    def _answer(self, client: Any, said: list[dict[str, str]], shape: Mapping[str, Any]) -> Answer:
        import openai

        schema = {
            "type": "object",
            "properties": dict(shape),
            "required": list(shape),
            "additionalProperties": False,
        }
        wanted = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }
        ask = partial(client.chat.completions.create, model=self.model, messages=said)
        try:
            try:
                found = ask(response_format=wanted)
            except openai.BadRequestError:  # not every service knows schemas; answers are checked
                found = ask()
            text = found.choices[0].message.content
            model = getattr(found, "model", None)  # not every service says it
        except openai.APIStatusError as error:
            raise self._failed(f"status {error.status_code}") from None
        except openai.APITimeoutError:
            raise self._failed(f"no answer within {self.timeout:g} s") from None
        except openai.OpenAIError as error:
            raise self._failed(type(error).__name__) from None
        except (AttributeError, IndexError, TypeError, ValueError):
            raise self._failed("an answer that is none of its protocol") from None
        return Answer(_whole(text) or "", _whole(model))

    def _failed(self, how: str) -> InputError:
        # an address may hold a password
        where = urlsplit(self.base_url or "").netloc.rpartition("@")[2] or "the service"
        return InputError(
            f"grouping.chat: {where} failed ({how}); try again later, set grouping.chat.base_url, "
            "or replay what was answered with grouping.record"
        )


def _whole(text: object) -> str | None:
    """A text without halves of surrogate pairs, which no file holds; None: it is none."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else None
