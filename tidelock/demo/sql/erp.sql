-- The ERP: captured by triggers into a queue table. Countries are written out, dates are text (DD/MM/YYYY), money is in cents,
-- a person's name is one column, and e-mail addresses are unique.

create table debtors (
    debtor_id     serial primary key,
    debtor_no     varchar(20) not null unique,
    company       varchar(60) not null,
    country       varchar(60),
    branch        varchar(30),
    balance_cents bigint,
    ext_ref       text
);

create table persons (
    person_id   uuid primary key default gen_random_uuid(),
    full_name   varchar(80),
    mail        text not null unique,
    tel         varchar(24),
    country     varchar(60),
    born        varchar(10),
    active      char(1) not null default '1',
    limit_cents bigint check (limit_cents between 0 and 100000000),
    debtor_id   integer references debtors (debtor_id),
    ext_ref     text
);

create table sales_orders (
    order_key   serial primary key,
    order_no    varchar(20) not null unique,
    debtor_no   varchar(20) not null references debtors (debtor_no),
    order_dt    varchar(10) not null,
    state       char(1) not null default 'P',
    total_cents bigint,
    remark      varchar(40),
    ext_ref     text
);

create table sales_order_lines (
    line_key    uuid primary key default gen_random_uuid(),
    order_no    varchar(20) not null references sales_orders (order_no) on delete cascade,
    pos         integer not null,
    article     varchar(20) not null,
    qty         integer not null,
    price_cents bigint,
    ext_ref     text,
    unique (order_no, pos)
);

create table article_stock (
    stock_id     serial primary key,
    article      varchar(20) not null unique,
    quantity     integer not null,
    min_quantity integer,
    ext_ref      text
);

create schema canon;

create function canon.country(written text) returns text language sql immutable as $$
    select case lower(trim(written))
        when 'united states' then 'USA' when 'usa' then 'USA' when 'us' then 'USA'
        when 'germany' then 'DEU' when 'deutschland' then 'DEU' when 'united kingdom' then 'GBR' when 'uk' then 'GBR' when 'great britain' then 'GBR'
        when 'france' then 'FRA'
        when 'canada' then 'CAN' when 'spain' then 'ESP' when 'españa' then 'ESP' when 'italy' then 'ITA' when 'japan' then 'JPN' else '?' || written end
$$;

create function canon.phone(typed text) returns text language sql immutable as $$
    select case
        when typed is null or trim(typed) = '' then null
        when left(trim(typed), 1) = '+' then '+' || regexp_replace(typed, '\D', '', 'g')
        when left(regexp_replace(typed, '\D', '', 'g'), 2) = '00' then '+' || substr(regexp_replace(typed, '\D', '', 'g'), 3)
        else '+1' || regexp_replace(typed, '\D', '', 'g') end
$$;

create function canon.day(written text) returns text language sql immutable as $$
    select case when written is null or written = '' then null
        else substr(written, 7, 4) || '-' || substr(written, 4, 2) || '-' || substr(written, 1, 2) end
$$;

create function canon.money(cents bigint) returns text language sql immutable as $$
    select round(cents / 100.0, 2)::text
$$;

create view canon.account as
select debtor_id::text as key, debtor_no::text as number, company::text as name, canon.country(country) as country,
       lower(branch) as industry, canon.money(balance_cents) as balance
from debtors;

create view canon.contact as
select person_id::text as key, lower(trim(mail)) as email, split_part(full_name, ' ', 1) as first_name,
       nullif(split_part(full_name, ' ', 2), '') as last_name, canon.phone(tel) as phone, canon.country(country) as country,
       canon.day(born) as birthday, case active when '1' then 'active' else 'inactive' end as status,
       canon.money(limit_cents) as credit_limit,
       (select d.debtor_no::text from debtors d where d.debtor_id = p.debtor_id) as account
from persons p;

create view canon.order as
select order_key::text as key, order_no::text as number, debtor_no::text as account_no, canon.day(order_dt) as ordered_on,
       case state when 'P' then 'pending' when 'S' then 'shipped' when 'X' then 'cancelled' end as status,
       canon.money(total_cents) as total, remark::text as note
from sales_orders;

create view canon.order_line as
select line_key::text as key, order_no::text as order_no, pos::text as line_no, article::text as sku, qty::text as quantity,
       canon.money(price_cents) as price
from sales_order_lines;

create view canon.inventory as
select stock_id::text as key, article::text as sku, quantity::text as quantity, min_quantity::text as reorder_level
from article_stock;
