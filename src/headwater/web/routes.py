"""The routers of all pages, in the order of the top bar. A page is a module with a `router`, listed here."""

from __future__ import annotations

from fastapi import APIRouter

from headwater.web import corpus, jobs, marks, predictions, proof, rail, waiting, why, words, worklist

ROUTERS: tuple[APIRouter, ...] = (
    predictions.router,
    why.router,
    rail.router,
    corpus.router,
    words.router,
    worklist.router,
    marks.router,
    jobs.router,
    proof.router,
    waiting.router,
)
