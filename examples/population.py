"""Train a network that no gradient can train: step activations, and accuracy itself as the objective."""

from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

import popgrad as pg

X, y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)

model = pg.MLP([4, 8, 3], activation="step", seed=0)
search = pg.search.GeneticAlgorithm(popsize=64)
budget = pg.Budget(evaluations=20_000)
history = pg.fit(model, X, y, optimizer=search, objective="error_rate", budget=budget, validation=0.3)

print(
    f"error rate: training {history.metric[history.best]:.3f}, validation {history.validation_metric[history.best]:.3f}"
)
