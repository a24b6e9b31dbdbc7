"""Names and values that a catalogue of vehicles shouldn't have: special categories of GDPR Art. 9 and 10, who and where people are.

A lint over English words, not a proof: it reads ``user_email``, ``customer_phone_number`` and ``birthdate`` for what they are, and
leaves ``vehicle_age``, ``model_name``, ``battery_health`` and ``race_package`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

_MOST_WORDS: Final = 3  # that are written apart, and mean something together

# Written without the underscores between them, each a whole word or several that follow each other.
_OF_CATEGORY: Final[Mapping[str, str]] = {
    "health": "addiction allergy blindness bloodgroup bloodtype cancer deaf deafness diagnosis disabilities disability disabled "
    "disease handicap handicapped healthcare illness impaired impairment medical medication medicine mentalhealth pregnancy "
    "pregnant therapy wheelchair",
    "religion or belief": "atheist belief buddhist catholic christian church denomination faith halal hindu islam jew jewish "
    "kosher muslim protestant religion religious sikh",
    "ethnic origin": "asylum citizenship ethnic ethnicities ethnicity immigrant migrant migration nationalities nationality "
    "racial refugee skincolor skincolour tribe",
    "politics": "election ideology political politicalparty politics voter",
    "trade union": "laborunion labourunion tradeunion unionized unionmember unionmembership",
    "sexual life or orientation": "bisexual gay heterosexual homosexual lesbian lgbt lgbtq lgbtqi queer sex sexual sexuality "
    "transgender transsexual",
    "gender": "female gender male woman women",
    "crime": "arrest convicted conviction crime criminal felony offence offences offender offense prison",
    "genetic data": "dna gene genes genetic genetics genome",
    "biometric data": "biometric biometrics faceid faceimage faceprint facerecognition facial fingerprint irisscan retina "
    "voiceprint",
    "age": "agebracket agegroup agerange birth birthdate birthday birthplace birthyear dateofbirth dob yearofbirth yob",
    "a person's name": "familyname firstname forename fullname givenname lastname login maidenname nickname realname salutation "
    "screenname surname username",
    "contact": "address email emailaddress fax homeaddress housenumber mailaddress mobilenumber mobilephone msisdn phone "
    "phonenumber skype street streetname telephone whatsapp",
    "an official number": "customernumber driverlicence driverlicense driverslicence driverslicense drivinglicence "
    "drivinglicense employeenumber idcard identitycard idnumber insurancenumber licencenumber licensenumber membernumber "
    "nationalid passport passportnumber socialsecurity socialsecuritynumber ssn taxid taxnumber usernumber",
    "money": "accountnumber bankaccount cardnumber creditcard creditscore cvv debitcard iban income salary wage",
    "one vehicle's number": "chassisnumber framenumber licenceplate licenseplate numberplate plateno platenumber "
    "registrationnumber registrationplate vehicleidentificationnumber vin vinnumber vrm",
    "a device": "aaid adid advertisingid cookie cookieid deviceid gaid idfa imei imsi ip ipaddress ipv macaddress sessionid "
    "useragent",
    "a place": "coordinate coordinates geo geohash geolocation geopoint gpslocation gpsposition lat latitude latlng latlon lng "
    "lon longitude plz postal postalcode postcode zip zipcode",
}
_SPECIAL: Final = (  # what a value may tell of people, who are named by it; models and makes have many other words in them
    "health",
    "religion or belief",
    "ethnic origin",
    "politics",
    "trade union",
    "sexual life or orientation",
    "gender",
    "crime",
)
# Of people, unless beside a word for a vehicle or a part of one, and none for a person.
_OF_PEOPLE: Final[Mapping[str, str]] = {
    "account": "a person's number",
    "age": "age",
    "contact": "contact",
    "health": "health",
    "mail": "contact",
    "mobile": "contact",
    "name": "a person's name",
    "plate": "one vehicle's number",
    "race": "ethnic origin",
    "union": "trade union",
}
# Only beside a word for a person.
_BESIDE_PEOPLE: Final[Mapping[str, str]] = {
    "city": "a place",
    "country": "a place",
    "face": "biometric data",
    "id": "a person's number",
    "key": "a person's number",
    "language": "ethnic origin",
    "location": "a place",
    "origin": "ethnic origin",
    "party": "politics",
    "photo": "biometric data",
    "picture": "biometric data",
    "voice": "biometric data",
}
_PEOPLE: Final = frozenset(
    "buyer client customer driver employee family holder keeper owner parent person personal salesman seller spouse user visitor "
    "first last full given maiden".split()
)
_VEHICLES: Final = frozenset(
    "ad ads advert battery body brand car chassis color colour edition engine fuel gearbox home listing make manufacturer "
    "mode model motor pack package paint roof series skid spec stock suspension tire track transmission trim tyre variant "
    "vehicle version wheel".split()
)
_STEMS: Final[Mapping[str, str]] = {
    "email": "contact",
    "telephone": "contact",
    "phonenumber": "contact",
    "birthd": "age",
    "birthday": "age",
    "religio": "religion or belief",
    "ethnic": "ethnic origin",
    "nationalit": "ethnic origin",
    "disabilit": "health",
    "disease": "health",
    "pregnan": "health",
    "biometr": "biometric data",
    "genetic": "genetic data",
    "passport": "an official number",
    "latitude": "a place",
    "longitude": "a place",
    "geoloc": "a place",
    "politic": "politics",
    "sexual": "sexual life or orientation",
    "criminal": "crime",
    "firstname": "a person's name",
    "lastname": "a person's name",
    "surname": "a person's name",
    "username": "a person's name",
    "licenceplate": "one vehicle's number",
    "licenseplate": "one vehicle's number",
    "ipaddress": "a device",
}


def sensitive_name(name: str) -> str | None:
    """What an attribute's name tells of people, ``None`` when nothing.

    >>> sensitive_name("customer_phone_number"), sensitive_name("birthDate"), sensitive_name("vehicle_age")
    ('contact', 'age', None)
    """
    words = _words_of(name)
    found = _told_by(words, _ALWAYS)
    if found is None:
        found = next((category for word in words for stem, category in _STEMS.items() if stem in word), None)
    if found is None and (not _VEHICLES.intersection(words) or _PEOPLE.intersection(words)):
        found = _told_by(words, _OF_PEOPLE)
    if found is None and _PEOPLE.intersection(words):
        found = _told_by(words, _BESIDE_PEOPLE)
    return found


def sensitive_value(value: str) -> str | None:
    """What a category's value tells of people, ``None`` when nothing.

    >>> sensitive_value("Wheelchair accessible"), sensitive_value("people mover")
    ('health', None)
    """
    return _told_by(_words_of(value), _IN_VALUES)


def _words_of(text: str) -> list[str]:
    """The words in a text in snake case, camel case or plain: lower case, without digits."""
    return [word.lower() for word in _WORD.findall(_CAMEL.sub(r"\1_\2", text))]


def _told_by(words: list[str], table: Mapping[str, str]) -> str | None:
    for run in _runs(words):
        for form in (run, run.removesuffix("s")):
            if form in table:
                return table[form]
    return None


def _runs(words: list[str]) -> Iterator[str]:
    """Words that follow each other, as one."""
    for length in range(1, _MOST_WORDS + 1):
        for start in range(len(words) - length + 1):
            yield "".join(words[start : start + length])


_WORD: Final = re.compile(r"[^\W\d_]+")
_CAMEL: Final = re.compile(r"([a-z])([A-Z])")
_ALWAYS: Final = {word: category for category, words in _OF_CATEGORY.items() for word in words.split()}
_IN_VALUES: Final = {word: category for word, category in _ALWAYS.items() if category in _SPECIAL}
