-- Who is there: everything about the presence of one channel, in one script, so that each call begins with a sweep.
--
-- KEYS  members  hash, id of a connection -> '<1 when its leave is to be told>:<bytes of the user>:<user><info>'
--       due      sorted set, id of a connection by the time (milliseconds of this server) at which it is there no more
--       users    hash, user -> how many of its connections are there
-- ARGV  fresh    (not used: presence has no history that could fork)
--       verb     'enter', 'leave', 'list' or 'count'
--       channel  name of the channel's pub/sub
--       ttl      how long a member is there after it was last entered, in milliseconds
--       enter:   announce ('1' remembers that the leave is to be told), joins ('1' tells the join of who was not there yet),
--                then for each member: id, user, info
--       leave:   announce ('1' tells the leave), id
-- Gives   enter: how many are there now;  leave: 1 when it was there, else 0;
--         list: {id, info, id, info, ...};  count: {connections, users}.

local verb, channel, ttl = ARGV[2], ARGV[3], tonumber(ARGV[4])
local MEMBERS, DUE, USERS = KEYS[1], KEYS[2], KEYS[3]

-- Members that one call sweeps. What is beyond waits for the next one, and is there for nobody meanwhile.
local SWEEP = 1000

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local micros = string.format('%s%06d', clock[1], clock[2])

local function tell(kind, info)
    redis.call('PUBLISH', channel, '1' .. kind .. '::0:' .. micros .. ':' .. info)
end

local function parts(value)
    local announced, size, from = string.match(value, '^([01]):(%d+):()')
    local till = from + size
    return announced, string.sub(value, from, till - 1), string.sub(value, till)
end

local function remove(id, announce)
    local value = redis.call('HGET', MEMBERS, id)
    redis.call('ZREM', DUE, id)
    if not value then
        return 0
    end
    redis.call('HDEL', MEMBERS, id)
    local announced, user, info = parts(value)
    if redis.call('HINCRBY', USERS, user, -1) <= 0 then
        redis.call('HDEL', USERS, user)
    end
    if (announce or announced) == '1' then
        tell('l', info)
    end
    return 1
end

-- The three keys belong together. Where somebody removed or evicted one, nobody is there until they say so again.
local members = redis.call('HLEN', MEMBERS)
if members ~= redis.call('ZCARD', DUE) or (members > 0) ~= (redis.call('EXISTS', USERS) == 1) then
    redis.call('DEL', MEMBERS, DUE, USERS)
end

local expired = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, SWEEP)
for _, id in ipairs(expired) do
    remove(id)
end

if verb == 'enter' then
    local announce, joins = ARGV[5], ARGV[6]
    for i = 7, #ARGV, 3 do
        local id, user, info = ARGV[i], ARGV[i + 1], ARGV[i + 2]
        local value = announce .. ':' .. #user .. ':' .. user .. info
        local before = redis.call('HGET', MEMBERS, id)
        if before ~= value then
            redis.call('HSET', MEMBERS, id, value)
        end
        redis.call('ZADD', DUE, now + ttl, id)
        if not before then
            redis.call('HINCRBY', USERS, user, 1)
            if joins == '1' then
                tell('j', info)
            end
        end
    end
    -- Beyond the life of the last member, so that whoever looks then finds it and tells its leave.
    for _, key in ipairs(KEYS) do
        redis.call('PEXPIRE', key, 2 * ttl)
    end
    return redis.call('ZCOUNT', DUE, '(' .. now, '+inf')
end

if verb == 'leave' then
    return remove(ARGV[6], ARGV[5])
end

-- Who is still to be swept is left out.
local values
if #expired < SWEEP then
    if verb == 'count' then
        return {redis.call('HLEN', MEMBERS), redis.call('HLEN', USERS)}
    end
    values = redis.call('HGETALL', MEMBERS)
else
    values = {}
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '(' .. now, '+inf')) do
        values[#values + 1] = id
        values[#values + 1] = redis.call('HGET', MEMBERS, id)
    end
end

local seen, users = {}, 0
for i = 2, #values, 2 do
    local _, user, info = parts(values[i])
    values[i] = info
    if not seen[user] then
        seen[user] = true
        users = users + 1
    end
end
if verb == 'count' then
    return {#values / 2, users}
end
return values
