"""Write scikit-learn's diabetes data (442 patients) as diabetes.csv into this folder."""

import csv
from pathlib import Path

from sklearn.datasets import load_diabetes

if __name__ == "__main__":
    data = load_diabetes(scaled=False)
    with Path(__file__).with_name("diabetes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*data.feature_names, "progression"])
        writer.writerows([*row.tolist(), target] for row, target in zip(data.data, data.target, strict=True))
