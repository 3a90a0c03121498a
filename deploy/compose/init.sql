-- Databases and tables of the example in deploy/compose/tidelock.yaml.
CREATE DATABASE crm;
CREATE DATABASE erp;
CREATE DATABASE store;
CREATE DATABASE registry;  -- of the schema registry itself
\connect crm
CREATE TABLE contacts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, first_name text, last_name text, email text, phone text);
\connect erp
CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, mail text, tel text);
