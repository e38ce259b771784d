//! What people do: sessions, campaigns, purchases in the shop and outside it. Everything here
//! ends in events pushed into the queue.

use super::calendar::Calendar;
use super::catalog;
use super::people::{Habit, People};
use super::queue::{Event, HOUR_MILLIS, NO_PRODUCT, NONE, Queue};
use super::random::Random;
use super::{Name, PopulationConfig};

/// Channels a campaign is sent by; index `theme * CHANNELS + channel` names a campaign.
pub(super) const CHANNELS: usize = 3;
/// Themes of campaigns, a new one each week.
pub(super) const THEMES: [&str; 8] = [
    "new_arrivals",
    "weekend_deal",
    "back_again",
    "free_shipping",
    "clearance",
    "loyalty",
    "season_opening",
    "gift_guide",
];

const DAY_MILLIS: u64 = 24 * HOUR_MILLIS;
const MINUTE_MILLIS: u64 = 60_000;

/// How a channel is used.
struct Channel {
    sent: Name,
    /// Between sending and clicking; text messages tell nothing of it.
    opened: Option<Name>,
    clicked: Name,
    /// Messages as a share of all events of the days on which the channel is used.
    per_mille: u64,
    /// Hours of the day in which it sends.
    hours: std::ops::Range<u64>,
    /// Sends on every day whose number is a multiple of this.
    every_days: u64,
}

const EMAIL: Channel = Channel {
    sent: Name::EmailSent,
    opened: Some(Name::EmailOpen),
    clicked: Name::EmailClick,
    per_mille: 60,
    hours: 8..20,
    every_days: 1,
};
const PUSH: Channel = Channel {
    sent: Name::PushSent,
    opened: Some(Name::PushOpen),
    clicked: Name::Visit,
    per_mille: 50,
    hours: 11..22,
    every_days: 2,
};
const SMS: Channel = Channel {
    sent: Name::SmsSent,
    opened: None,
    clicked: Name::SmsClick,
    per_mille: 25,
    hours: 12..15,
    every_days: 7,
};

/// A population in the course of its days.
#[derive(Clone, Debug)]
pub(super) struct Shop {
    pub(super) people: People,
    pub(super) queue: Queue,
    pub(super) hour: u64,
    pub(super) calendar: Calendar,
    random: Random,
    events: u64,
    generated: u64,
    users: u64,
    born: u64,
    orders: u32,
    audience: [u64; CHANNELS],
}

/// One visit of one person.
struct Session {
    rank: u32,
    platform: u8,
    campaign: u8,
    time_millis: u64,
    /// Events that this session may still have.
    left: u64,
    cart: Cart,
}

/// Products put in the cart in one session, at most four.
#[derive(Default)]
struct Cart {
    products: [u32; 4],
    count: usize,
}

impl Shop {
    pub(super) fn new(config: &PopulationConfig) -> Self {
        Self {
            people: People::new(config.users.max(1), config.seed),
            queue: Queue::default(),
            hour: 0,
            calendar: Calendar::new(config.days),
            random: Random::new(config.seed),
            events: config.events,
            generated: 0,
            users: config.users,
            born: 0,
            orders: 0,
            audience: [0; CHANNELS],
        }
    }

    /// Generates what begins in the current hour. Events may lie in later hours.
    pub(super) fn live_an_hour(&mut self) {
        let target = self.calendar.share_until(self.hour + 1, self.events);
        let begun = self.generated;
        self.arrive(target);
        for (index, channel) in [EMAIL, PUSH, SMS].iter().enumerate() {
            self.send(index, channel, target.saturating_sub(begun));
        }
        for _ in 0..self.random.per_mille(target.saturating_sub(begun), 3) {
            self.buy_offline();
        }
        while self.generated < target {
            let rank = self.people.draw(&mut self.random);
            let start = self.moment();
            self.session(rank, start, NONE, u64::MAX, false);
        }
    }

    /// A moment of the current hour.
    fn moment(&mut self) -> u64 {
        self.hour * HOUR_MILLIS + self.random.below(HOUR_MILLIS)
    }

    /// Counts and queues an event, unless it is after the last day, or one too many: one event is
    /// kept for everybody who has yet to arrive.
    fn emit(&mut self, event: Event) -> bool {
        let reserved = self.users - self.born;
        if self.generated + reserved >= self.events
            || event.time_millis >= self.calendar.end_millis()
        {
            return false;
        }
        self.generated += 1;
        self.queue.push(event);
        true
    }

    /// First sessions of those whose first arrival is due. Nobody's is so long that others would
    /// go without.
    fn arrive(&mut self, target: u64) {
        let due = self.calendar.share_until(self.hour + 1, self.users);
        while self.born < due {
            let (waiting, missing) = (due - self.born, self.users - self.born);
            let hourly = target
                .saturating_sub(self.generated)
                .saturating_sub(waiting);
            let total = (self.events - self.generated).saturating_sub(missing);
            let limit = 1 + (2 * hourly / waiting).min(total);
            let rank = self.people.born_at(self.born);
            self.born += 1;
            let start = self.moment();
            self.session(rank, start, NONE, limit, true);
        }
    }

    /// Sends the hour's share of the day's campaign to people who have arrived, each at most once
    /// a day.
    fn send(&mut self, index: usize, channel: &Channel, hourly: u64) {
        let (day, hour) = (self.hour / 24, self.hour % 24);
        if day % channel.every_days != 0 || !channel.hours.contains(&hour) || self.born == 0 {
            return;
        }
        let events = self.calendar.share_of_day(day, self.events);
        let daily = events * channel.per_mille / 1_000;
        let step = (self.born / daily.max(1)).max(1);
        if hour == channel.hours.start {
            self.audience[index] = self.random.below(2 * step);
        }
        let day_per_hour = events / (channel.hours.end - channel.hours.start);
        let campaign = (day as usize / 7 % THEMES.len() * CHANNELS + index) as u8;
        for _ in 0..self
            .random
            .per_mille(day_per_hour, channel.per_mille)
            .min(hourly / 2)
        {
            if self.audience[index] >= self.born {
                return;
            }
            let rank = self.people.born_at(self.audience[index]);
            self.audience[index] += self.random.between(1, 2 * step);
            let sent = self.moment();
            self.message(channel, campaign, rank, sent);
        }
    }

    /// One message, perhaps opened, perhaps clicked, which begins a session.
    fn message(&mut self, channel: &Channel, campaign: u8, rank: u32, sent: u64) {
        let mut event = plain(rank, sent, channel.sent);
        event.campaign = campaign;
        if !self.emit(event) {
            return;
        }
        if let Some(opened) = channel.opened {
            if !self.random.chance(200) {
                return;
            }
            event.name = opened as u8;
            let base = self.random.between(MINUTE_MILLIS, 3 * MINUTE_MILLIS);
            event.time_millis += self.random.doubled(base, 9);
            event.platform = self.people.platform(rank, &mut self.random);
            if !self.emit(event) {
                return;
            }
        }
        if !self.random.chance(150) {
            return;
        }
        event.time_millis += self.random.between(2_000, 60_000);
        if channel.clicked as u8 != Name::Visit as u8 {
            event.name = channel.clicked as u8;
            if !self.emit(event) {
                return;
            }
        }
        let landing = event.time_millis + self.random.between(300, 3_000);
        self.session(rank, landing, campaign, u64::MAX, false);
    }

    /// A purchase by card in a shop of stone.
    fn buy_offline(&mut self) {
        let rank = self.people.draw(&mut self.random);
        let product = catalog::draw(&mut self.random);
        let mut event = plain(rank, self.moment(), Name::CardPurchase);
        event.product = product;
        event.order = self.next_order();
        event.amount_cents = catalog::price_cents(product, (self.hour / 24) as u32);
        self.emit(event);
    }

    fn next_order(&mut self) -> u32 {
        self.orders = self.orders.wrapping_add(1).max(1);
        self.orders
    }

    /// A visit: looking around, perhaps filling the cart, perhaps buying.
    fn session(&mut self, rank: u32, start: u64, campaign: u8, limit: u64, first: bool) {
        let habit = self.people.habit(rank);
        let mut session = Session {
            rank,
            platform: self.people.platform(rank, &mut self.random),
            campaign,
            time_millis: start,
            left: limit,
            cart: Cart::default(),
        };
        self.act(&mut session, Name::Visit, NO_PRODUCT);
        session.campaign = NONE;
        let base = self.random.between(1, 5);
        let steps = self.random.doubled(base, 3);
        if habit == Habit::Passing {
            for _ in 0..steps.div_ceil(4) {
                self.wait(&mut session);
                self.act(&mut session, Name::Search, NO_PRODUCT);
            }
            return;
        }
        let product = self.look_around(&mut session, habit, steps);
        if habit == Habit::Browsing {
            return;
        }
        if first && session.cart.count == 0 {
            self.wait(&mut session);
            self.put_in_cart(&mut session, product);
        }
        self.settle(&mut session, habit, first);
    }

    /// Views and searches; gives the last product looked at.
    fn look_around(&mut self, session: &mut Session, habit: Habit, steps: u64) -> u32 {
        let mut product = catalog::draw(&mut self.random);
        for step in 0..steps {
            self.wait(session);
            if step > 0 && self.random.chance(120) {
                self.act(session, Name::Search, NO_PRODUCT);
                continue;
            }
            self.act(session, Name::View, product);
            match self.random.below(1_000) {
                0..70 if habit != Habit::Browsing => {
                    self.wait(session);
                    self.put_in_cart(session, product);
                }
                994..998 => {
                    self.wait(session);
                    self.act(session, Name::SubscribePriceDrop, product);
                }
                998..1_000 => {
                    self.wait(session);
                    self.act(session, Name::SubscribeBackInStock, product);
                }
                _ => {}
            }
            if step + 1 < steps {
                product = catalog::draw_next(&mut self.random, product);
            }
        }
        product
    }

    fn put_in_cart(&mut self, session: &mut Session, product: u32) {
        if session.cart.count == session.cart.products.len() {
            return;
        }
        if self.act(session, Name::Cart, product) {
            session.cart.products[session.cart.count] = product;
            session.cart.count += 1;
        }
    }

    /// What becomes of the cart.
    fn settle(&mut self, session: &mut Session, habit: Habit, first: bool) {
        if session.cart.count > 1 && self.random.chance(200) {
            session.cart.count -= 1;
            self.wait(session);
            let product = session.cart.products[session.cart.count];
            self.act(session, Name::RemoveFromCart, product);
        }
        if session.cart.count == 0 {
            return;
        }
        match habit {
            Habit::Buying if first || self.random.chance(250) => self.buy(session),
            Habit::BuyingLate if first || self.random.chance(150) => {
                let delay = self.random.between(26 * HOUR_MILLIS, 4 * DAY_MILLIS);
                session.time_millis += delay;
                self.act(session, Name::Visit, NO_PRODUCT);
                self.buy(session);
            }
            Habit::Collecting if self.random.chance(200) => {
                self.wait(session);
                self.act(session, Name::Checkout, NO_PRODUCT);
            }
            _ => {}
        }
    }

    /// Checks out and buys what is in the cart, as one order; some of it comes back.
    fn buy(&mut self, session: &mut Session) {
        let order = self.next_order();
        self.wait(session);
        let mut event = session.event(Name::Checkout);
        event.order = order;
        self.emit_of(session, event);
        for index in 0..session.cart.count {
            let product = session.cart.products[index];
            // Lines of one order follow within a second.
            session.time_millis += self.random.between(1, 900);
            let pieces = 1 + u32::from(self.random.chance(100));
            let day = (session.time_millis / DAY_MILLIS) as u32;
            let mut event = session.event(Name::Purchase);
            event.product = product;
            event.order = order;
            event.amount_cents = pieces * catalog::price_cents(product, day);
            if self.emit_of(session, event) && self.random.chance(60) {
                event.name = Name::Return as u8;
                event.time_millis += self.random.between(2 * DAY_MILLIS, 14 * DAY_MILLIS);
                self.emit(event);
            }
        }
    }

    /// Lets between 4 seconds and 22 minutes pass, mostly under one: never the 30 minutes that
    /// end a session.
    fn wait(&mut self, session: &mut Session) {
        let base = self.random.between(4_000, 20_000);
        session.time_millis += self.random.doubled(base, 6);
    }

    fn act(&mut self, session: &mut Session, name: Name, product: u32) -> bool {
        let mut event = session.event(name);
        event.product = product;
        self.emit_of(session, event)
    }

    fn emit_of(&mut self, session: &mut Session, event: Event) -> bool {
        if session.left == 0 {
            return false;
        }
        session.left -= 1;
        self.emit(event)
    }
}

impl Session {
    fn event(&self, name: Name) -> Event {
        let mut event = plain(self.rank, self.time_millis, name);
        event.platform = self.platform;
        event.campaign = self.campaign;
        event
    }
}

fn plain(rank: u32, time_millis: u64, name: Name) -> Event {
    Event {
        time_millis,
        rank,
        product: NO_PRODUCT,
        order: 0,
        amount_cents: 0,
        name: name as u8,
        platform: NONE,
        campaign: NONE,
    }
}
