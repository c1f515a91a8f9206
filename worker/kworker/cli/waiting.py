"""`kworker publish --wait`: one call of a task, and its result on standard output."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING

import click

from kworker.config import Config
from kworker.duration import seconds

if TYPE_CHECKING:
    from kworker.client import Client, Message


class Wait:
    """What --wait asks for. Raises UsageError for what is wrong with it."""

    def __init__(self, duration: str, config: Config) -> None:
        try:
            self._seconds = seconds(duration)
        except ValueError as error:
            raise click.UsageError(f"--wait: {error}; write --wait=DURATION, or --wait last") from error
        if len(config.reply_topics) != 1:
            configured = ", ".join(config.reply_topics) or "none"
            raise click.UsageError(
                "--wait needs one topic that the result comes back on, which the workers allow too: "
                f"name it with --reply-topic; configured: {configured}"
            )
        (self._reply_topic,) = config.reply_topics
        self._config = config

    def call(self, client: Client, message: Message, as_json: bool) -> None:
        """Call the task and print what it returned: JSON, or bytes as they are. Raises CallError or PublishError."""
        topic = message.topic or ""
        try:
            result = client.call(
                message.task,
                message.payload,
                timeout=self._seconds,
                topic=topic,
                key=message.key,
                id=message.id,
                headers=message.headers,
                reply_to=self._reply_topic,
                dead_letters=self._config.dead_letter(topic),
            )
        except ValueError as error:  # it was not sent
            raise click.UsageError(str(error)) from error
        raw = isinstance(result, bytes)
        if as_json:
            told = {"result_base64": b64encode(result).decode()} if raw else {"result": result}
            click.echo(json.dumps({"task": message.task, **told}, ensure_ascii=False))
        else:
            click.echo(result if raw else json.dumps(result, ensure_ascii=False), nl=not raw)
