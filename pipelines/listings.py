"""The listings of the simulated marketplace: the same ones for every seed, so that a listing id always means the same vehicle."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError

LISTINGS: Final = 2_000
LISTINGS_PER_TASTE: Final = 32
NEWEST_YEAR: Final = 2024
_CATALOGUE_SEED: Final = 20_240_501
_VALUE_KEPT_PER_YEAR: Final = 0.88
_KM_PER_YEAR: Final = 12_000

FUEL_TYPES: Final = ("petrol", "diesel", "hybrid", "electric", "lpg")
BODY_TYPES: Final = ("suv", "hatchback", "sedan", "wagon", "ute / tray", "coupe", "convertible")
PRICE_EDGES: Final = (15_000, 30_000, 50_000)
MILEAGE_EDGES: Final = (30_000, 100_000)
MAX_OFFERED: Final = 1_000_000
TASTE_SIZES: Final = (len(FUEL_TYPES), len(BODY_TYPES), len(PRICE_EDGES) + 1, len(MILEAGE_EDGES) + 1)

# make, model, body, fuel types, price when new
_MODELS: Final = (
    ("Toyota", "Corolla", "hatchback", "petrol hybrid", 32_000),
    ("Toyota", "RAV4", "suv", "petrol hybrid", 43_000),
    ("Toyota", "Hilux", "ute / tray", "diesel", 55_000),
    ("Toyota", "Camry", "sedan", "petrol hybrid", 39_000),
    ("Toyota", "Landcruiser", "suv", "diesel", 98_000),
    ("Hyundai", "I30", "hatchback", "petrol", 29_000),
    ("Hyundai", "Tucson", "suv", "petrol diesel hybrid", 42_000),
    ("Hyundai", "Kona", "suv", "petrol electric", 46_000),
    ("Hyundai", "Ioniq 5", "suv", "electric", 72_000),
    ("Mazda", "3", "hatchback", "petrol", 33_000),
    ("Mazda", "CX-5", "suv", "petrol diesel", 44_000),
    ("Mazda", "MX-5", "convertible", "petrol", 45_000),
    ("Mazda", "BT-50", "ute / tray", "diesel", 52_000),
    ("Ford", "Ranger", "ute / tray", "diesel", 60_000),
    ("Ford", "Falcon", "sedan", "petrol lpg", 38_000),
    ("Ford", "Mustang", "coupe", "petrol", 68_000),
    ("Holden", "Commodore", "wagon", "petrol lpg", 40_000),
    ("Mitsubishi", "Outlander", "suv", "petrol hybrid", 45_000),
    ("Nissan", "Leaf", "hatchback", "electric", 52_000),
    ("Volkswagen", "Golf", "hatchback", "petrol diesel", 37_000),
    ("Volkswagen", "Passat", "wagon", "petrol diesel", 48_000),
    ("Skoda", "Octavia", "wagon", "petrol diesel", 42_000),
    ("Subaru", "Outback", "wagon", "petrol", 46_000),
    ("Kia", "EV6", "suv", "electric", 79_000),
    ("Kia", "Cerato", "sedan", "petrol", 28_000),
    ("Tesla", "Model 3", "sedan", "electric", 65_000),
    ("Tesla", "Model Y", "suv", "electric", 72_000),
    ("BMW", "420I", "coupe", "petrol", 82_000),
    ("BMW", "X5", "suv", "diesel hybrid", 125_000),
    ("Audi", "A5", "convertible", "petrol diesel", 95_000),
    ("Mercedes-Benz", "C200", "sedan", "petrol hybrid", 88_000),
    ("Volvo", "V60", "wagon", "diesel hybrid", 70_000),
)  # fmt: skip


class Listing(NamedTuple):
    """A vehicle on offer: the attributes of its views, and those of a search that would find it."""

    listing_id: str
    attributes: dict[str, Any]
    query: dict[str, Any]


def _listing(number: int, rng: np.random.Generator) -> Listing:
    make, model, body_type, fuels, new_price = _MODELS[rng.integers(len(_MODELS))]
    age = int(rng.integers(0, 15))
    fuel_type = str(rng.choice(fuels.split()))
    price = round(new_price * _VALUE_KEPT_PER_YEAR**age * rng.uniform(0.85, 1.15), -1)
    attributes = {
        "make": make,
        "model": model,
        "fuel_type": fuel_type,
        "body_type": body_type,
        "price": int(price),
        "mileage": float(round((age + 0.1) * _KM_PER_YEAR * rng.lognormal(0, 0.4))),
        "year": NEWEST_YEAR - age,
    }
    return Listing(f"l-{number}", attributes, {"fuel_type": fuel_type, "body_type": body_type})


def _catalogue() -> tuple[Listing, ...]:
    rng = np.random.default_rng(_CATALOGUE_SEED)
    return tuple(_listing(number, rng) for number in range(LISTINGS))


CATALOGUE: Final = _catalogue()


@functools.cache
def listings_by_taste() -> NDArray[np.int64]:
    """Shape (tastes, LISTINGS_PER_TASTE): for each taste, the listings closest to it.

    A taste is a fuel type, a body type, a price band and a mileage band, numbered by these four digits (``TASTE_SIZES``).
    """
    rng = np.random.default_rng(_CATALOGUE_SEED)
    digits = np.array([_taste_of(listing.attributes) for listing in CATALOGUE])
    tastes = np.stack(np.unravel_index(np.arange(np.prod(TASTE_SIZES)), TASTE_SIZES), axis=1)
    # Fuel and body decide before price and mileage do; the noise breaks ties.
    weights = np.array([4.0, 3.0, 2.0, 1.0])
    noise = rng.random((len(tastes), LISTINGS))
    closeness = noise + sum((tastes[:, [i]] == digits[:, i]) * weight for i, weight in enumerate(weights))
    return np.argpartition(-closeness, LISTINGS_PER_TASTE, axis=1)[:, :LISTINGS_PER_TASTE].astype(np.int64)


def write_listings(path: str | os.PathLike[str], count: int, sponsored_share: float, seed: int) -> None:
    """A file of ``count`` listings for an inventory, JSON lines: the marketplace's own first, then more of their kind.

    A listing of the marketplace is the same vehicle for every seed; what is sponsored, how each ranks and all others depend on it.
    """
    if not 0 < count <= MAX_OFFERED:
        msg = f"count == {count}, must be within 1 and {MAX_OFFERED}"
        raise ConfigError(msg)
    if not 0 <= sponsored_share <= 1:
        msg = f"sponsored_share == {sponsored_share}, must be within 0 and 1"
        raise ConfigError(msg)
    encode = msgspec.json.Encoder().encode
    with Path(path).open("wb") as file:
        file.writelines(encode(offer) + b"\n" for offer in offers(count, sponsored_share, seed))


def offers(count: int, sponsored_share: float, seed: int) -> Iterator[dict[str, Any]]:
    """The listings that ``write_listings`` writes."""
    rng = np.random.default_rng(seed)
    ranks = rng.random(count).round(4).tolist()
    sponsored = rng.permutation(np.arange(count) < round(count * sponsored_share)).tolist()
    described = itertools.chain((listing.attributes for listing in CATALOGUE[:count]), _more(count - LISTINGS, rng))
    for number, (rank, pays, attributes) in enumerate(zip(ranks, sponsored, described, strict=True)):
        title = f"{attributes['year']} {attributes['make']} {attributes['model']}"
        offer = {
            "listing_id": f"l-{number}",
            "sponsored": pays,
            "rank": rank,
            "title": title,
            "url": f"https://cars.example/l-{number}",
        }
        yield {**offer, **attributes}


def _more(n: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Attributes of listings beyond the marketplace's: drawn as those are, all at once."""
    n = max(n, 0)
    models, ages = rng.integers(len(_MODELS), size=n), rng.integers(0, 15, n)
    new_prices = np.array([model[4] for model in _MODELS])
    prices = (new_prices[models] * _VALUE_KEPT_PER_YEAR**ages * rng.uniform(0.85, 1.15, n)).round(-1).astype(np.int64)
    mileages = ((ages + 0.1) * _KM_PER_YEAR * rng.lognormal(0, 0.4, n)).round()
    fuels = [model[3].split() for model in _MODELS]
    columns = (models, ages, prices, mileages, rng.integers(1 << 30, size=n))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for place, age, price, mileage, fuel in rows:
        make, model, body_type, _, _ = _MODELS[place]
        fuel_type = fuels[place][fuel % len(fuels[place])]
        described = {"make": make, "model": model, "fuel_type": fuel_type, "body_type": body_type}
        yield {**described, "price": price, "mileage": mileage, "year": NEWEST_YEAR - age}


def _taste_of(attributes: dict[str, Any]) -> tuple[int, int, int, int]:
    return (
        FUEL_TYPES.index(attributes["fuel_type"]),
        BODY_TYPES.index(attributes["body_type"]),
        int(np.searchsorted(PRICE_EDGES, attributes["price"], side="right")),
        int(np.searchsorted(MILEAGE_EDGES, attributes["mileage"], side="right")),
    )
