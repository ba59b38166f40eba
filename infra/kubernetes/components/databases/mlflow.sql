-- Run once, by the image, on an empty volume: MLflow's user is no administrator and owns two databases.
\getenv user MLFLOW_USER
\getenv password MLFLOW_PASSWORD
CREATE ROLE :"user" LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER :"user";
CREATE DATABASE mlflow_auth OWNER :"user";
