# SPDX-License-Identifier: Apache-2.0
import numpy as np


def process_docs(dataset):
    def columns(d):
        return {"query": "Question: " + d["question"].replace("?", "!"), "opts": d["options"][::-1],
                "right": len(d["options"]) - 1 - d["gold"], "even": d["id"] % 2 == 0}

    return dataset.filter(lambda d: d["gold"] == 1 or "dog" in d["question"]).map(columns)


def mass(doc, results):
    lls = np.array([r[0] for r in results])
    probs = np.exp(lls) / np.sum(np.exp(lls))
    return {"acc": sum(probs[i] for i in doc["right"]), "best": lls.max(),
            "first": float(lls[0] == lls.max())}


def texts(doc, results):
    return {"has": float("e" in results[0] and len(doc["text"]) > 2), "long": len(results[0])}
