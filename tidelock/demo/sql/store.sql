-- The central data store: golden records as ordinary typed tables, one row per record, keyed by the canonical id.

create table account (
    canonical_id uuid primary key,
    number       text,
    name         text,
    country      text,
    industry     text,
    balance      numeric(14, 2)
);

create table contact (
    canonical_id uuid primary key,
    email        text,
    first_name   text,
    last_name    text,
    phone        text,
    country      text,
    birthday     date,
    status       text,
    credit_limit numeric(14, 2),
    newsletter   boolean,
    account      text
);

create table "order" (
    canonical_id uuid primary key,
    number       text,
    account_no   text,
    ordered_on   date,
    status       text,
    total        numeric(14, 2),
    note         text
);

create table order_line (
    canonical_id uuid primary key,
    order_no     text,
    line_no      integer,
    sku          text,
    quantity     integer,
    price        numeric(14, 2)
);

create table inventory (
    canonical_id  uuid primary key,
    sku           text,
    quantity      integer,
    reorder_level integer
);

create table "user" (
    canonical_id uuid primary key,
    login        text,
    name         text,
    email        text,
    role         text
);

create schema canon;

create view canon.account as
select canonical_id::text as key, number, name, country, industry, balance::text as balance from account;

create view canon.contact as
select canonical_id::text as key, email, first_name, last_name, phone, country, birthday::text as birthday, status,
       credit_limit::text as credit_limit, newsletter::text as newsletter,
       (select a.number from account a where a.canonical_id::text = c.account) as account
from contact c;

create view canon.order as
select canonical_id::text as key, number, account_no, ordered_on::text as ordered_on, status, total::text as total, note from "order";

create view canon.order_line as
select canonical_id::text as key, order_no, line_no::text as line_no, sku, quantity::text as quantity, price::text as price from order_line;

create view canon.inventory as
select canonical_id::text as key, sku, quantity::text as quantity, reorder_level::text as reorder_level from inventory;

create view canon.user as
select canonical_id::text as key, login, name, email, role from "user";
