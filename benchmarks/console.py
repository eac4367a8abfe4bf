"""Time of each page of a bank's console for eight people at once, with 100,000 firms; memory over 10,000 requests.

The console is a process of its own and speaks TLS; each person has a connection and a session. Times are those of the
browser's side: from the request to the last byte; the console's processor time of a page is beside it.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml
from result import emit

from party_bank.book import Book
from party_bank.firms import put_firms
from veilscore.console.store import ConsoleStore
from veilscore.evidence.job_ledger import Ledger
from veilscore.node.founding import found_federation
from veilscore.terms.job import new_job_id, parse_job

FIRMS = int(os.environ.get("VEILSCORE_FIRMS", "100000"))
REQUESTS = int(os.environ.get("VEILSCORE_REQUESTS", "10000"))
PEOPLE, EACH, JOBS = 8, 12, 400
BOUND_MS, BOUND_GROWTH = 300.0, 1.10
JOB = """
name: card-{n}
purpose: credit scoring of small firms
task: train_scorecard
bank: bank
holders: [tax]
datasets: {{bank: main, tax: main}}
parameters: {{max_bin: {bins}}}
"""
PAGES = (
    "/", "/jobs", "/jobs?q=card&page=3", "/data", "/agreements", "/consents", "/log", "/receipts", "/people", "/me",
    "/portfolio", "/firms", "/firms?q=Firm+7&page=40", "/firms?q=9131&region=South&industry=food&page=100",
    "/applications", "/campaigns", "/renewals", "/alarms", "/policies", "/jobs/new?example=scorecard", "/sandbox",
    "/health", "/static/console.css",
)  # fmt: skip


def firm_id(number: int) -> str:
    """Return one of the ids of the book."""
    return f"9131{number:014}"


def made_home(folder: Path, port: int) -> Path:
    """Return a bank's home with firms, jobs and people."""
    found_federation(folder, {"bank": "bank", "tax": "holder"}, exact=False)
    home = folder / "bank"
    node = yaml.safe_load((home / "node.yaml").read_text(encoding="utf-8"))
    roles = ["modeller", "steward", "auditor", "operator", "account_manager"]
    node["people"] = {f"person{n}": list(roles) for n in range(PEOPLE)}
    node["console"] = {"port": port, "per_minute": 100_000, "session_hours": 24, "idle_minutes": 480}
    (home / "node.yaml").write_text(yaml.safe_dump(node), encoding="utf-8")
    settings = {"id_normaliser": "text", "products": {"flow": {"ladder": [50_000, 100_000], "rate_bp": 435}}}
    (home / "bank.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (home / "state").mkdir(exist_ok=True)
    book = Book(f"sqlite:///{home / 'state' / 'book.db'}")
    for first in range(0, FIRMS, 20_000):
        put_firms(book, [one_firm(n) for n in range(first, min(FIRMS, first + 20_000))], "import")
    book.close()
    ledger = Ledger(home / "state" / "jobs")
    for n in range(JOBS):
        job = parse_job(JOB.format(n=n, bins=5 + n % 20))
        ledger.add(new_job_id(job), job, ("pending", "accepted", "refused")[n % 3], "")
    return home


def one_firm(n: int) -> dict[str, str]:
    """Return a firm of the book."""
    about = {"industry": ("building", "trade", "software", "food")[n % 4], "region": ("East", "North", "South")[n % 3]}
    return {"firm": firm_id(n), "name": f"Firm {n} Trading", "manager": f"manager {n % 40}", **about}


class Person:
    """One person's browser: a connection, a session."""

    def __init__(self, home: Path, port: int, name: str) -> None:
        store = ConsoleStore(home)
        self._cookie = f"__Host-session={store.begin(name, 'passkey')[0]}"
        store.close()
        context = ssl.create_default_context(cafile=str(home / "console" / "certificate.pem"))
        self._connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)

    def ms(self, path: str) -> float:
        """Ask for a page and return how long it took; SystemExit if it is no page."""
        began = time.perf_counter()
        self._connection.request("GET", path, headers={"Cookie": self._cookie})
        answer = self._connection.getresponse()
        body = answer.read()
        took = 1000 * (time.perf_counter() - began)
        if answer.status != 200 or not body:
            raise SystemExit(f"{path} answered {answer.status}: {body[-300:]!r}")
        return took


def together(people: list[Person], work: list[list[str]]) -> list[float]:
    """Let each person ask for the own list of pages, all at once; returns all times."""
    times: list[list[float]] = [[] for _ in people]
    wrong: list[str] = []

    def ask(number: int) -> None:
        try:
            times[number] += [people[number].ms(path) for path in work[number]]
        except (SystemExit, OSError) as error:
            wrong.append(str(error))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(people))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise SystemExit(wrong[0])
    return [one for some in times for one in some]


def resident_mb(pid: int) -> float:
    """Return the memory of a process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


def processor_s(pid: int) -> float:
    """Return the processor time of a process (Linux), which a busy machine does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    draw = random.Random(1)  # noqa: S311 - which pages are asked for
    with tempfile.TemporaryDirectory() as temporary:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        home = made_home(Path(temporary) / "trial", port)
        console = subprocess.Popen([sys.executable, "-m", "veilscore", "console", "--home", str(home)])
        try:
            log = home / "log" / "visits.log"
            while not (log.exists() and "site open" in log.read_text(encoding="utf-8")):
                if console.poll() is not None:
                    raise SystemExit("the console did not start")
                time.sleep(0.1)
            people = [Person(home, port, f"person{n}") for n in range(PEOPLE)]
            together(people, [list(PAGES) for _ in people])  # warms caches of files and templates
            asked = {path: [[path] * EACH for _ in people] for path in PAGES}
            asked["/firms/{firm}"] = [[f"/firms/{firm_id(draw.randrange(FIRMS))}" for _ in range(EACH)] for _ in people]
            p95, processor = {}, {}
            for path, work in asked.items():
                before_s = processor_s(console.pid)
                p95[path] = statistics.quantiles(together(people, work), n=20)[-1]
                processor[path] = 1000 * (processor_s(console.pid) - before_s) / (PEOPLE * EACH)
            for path, ms in sorted(p95.items(), key=lambda item: -item[1]):
                print(f"{path:60} p95 {ms:7.1f} ms, processor {processor[path]:5.1f} ms")
            part = REQUESTS // 10
            memory = []
            for _ in range(10):
                work = [[draw.choice(PAGES) for _ in range(part // PEOPLE)] for _ in people]
                together(people, work)
                memory.append(resident_mb(console.pid))
            print("memory, MB:", ", ".join(f"{mb:.0f}" for mb in memory))
            growth = memory[-1] / memory[0]
            slowest = max(p95.values())
            holds = slowest <= BOUND_MS and growth <= BOUND_GROWTH
            emit(
                "console",
                slowest,
                "ms",
                BOUND_MS,
                holds,
                p95=p95,
                processor_ms=processor,
                memory_mb=memory,
                growth=growth,
                firms=FIRMS,
            )
        finally:
            console.send_signal(signal.SIGTERM)
            console.wait(30)


if __name__ == "__main__":
    main()
