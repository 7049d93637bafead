"""A custom training loop: the model computes a gradient, and the optimizer takes the step."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

import popgrad as pg

X, y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
model = pg.MLP([13, 16, 3], activation="tanh", dtype="float64", seed=0)
optimizer = pg.optim.Momentum(learning_rate=lambda t: 0.5 / (1 + t / 200))
state = optimizer.init(model.params)

rng = np.random.default_rng(0)
for t in range(600):
    batch = rng.choice(len(X), 32, replace=False)
    loss, gradient = model.gradient(X[batch], y[batch])
    optimizer.step(model.params, gradient, state)
    if t % 200 == 0:
        print(f"step {t}: loss {loss:.3f}")
print(f"accuracy {(model.predict(X) == y).mean():.3f}, loss {model.loss(X, y):.4f}")

# The parameters are one vector, and its named parts are views: setting one sets the other.
model.views()["0.bias"][:] = 0
print(f"without the first bias: loss {model.loss(X, y):.4f}")
